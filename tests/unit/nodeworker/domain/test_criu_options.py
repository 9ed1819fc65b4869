"""Which options a CRIU gets."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from nodeworker.domain.criu_options import OPTIONS, CriuConfig, Option, parse_version

pytestmark = pytest.mark.timeout(5)


def keys(config: str) -> set[str]:
    return {re.split("[ =]", line)[0] for line in config.splitlines()}


def dumps(version: str) -> set[str]:
    return keys(CriuConfig(version).for_dump())


def restores(version: str) -> set[str]:
    return keys(CriuConfig(version).for_restore())


def test_a_dump_never_gets_what_only_a_restore_may_have() -> None:
    assert "leave-stopped" in restores("4.1")
    assert "leave-stopped" not in dumps("4.1")
    assert restores("4.2").isdisjoint({"ghost-limit", "link-remap", "timeout", "network-lock"})


@pytest.mark.parametrize("of", [dumps, restores])
def test_both_sides_close_tcp_connections_because_criu_insists(of: Callable[[str], set[str]]) -> None:
    assert "tcp-close" in of("4.1.1")


def test_connections_are_kept_on_both_sides_if_wanted_and_only_a_dump_without_a_lock_writes_them_down() -> None:
    config = CriuConfig("4.2")
    assert {"tcp-established", "network-lock"} <= keys(config.for_dump(keep=True))
    assert "tcp-established" in keys(config.for_restore(keep=True))
    assert "tcp-close" not in keys(config.for_dump(keep=True)) | keys(config.for_restore(keep=True))
    assert config.keeps_connections
    assert not CriuConfig("4.1.1").keeps_connections


def test_an_older_criu_is_not_given_what_it_does_not_know() -> None:
    assert "allow-uprobes" not in dumps("4.1.1") | restores("4.1.1")
    assert "allow-uprobes" in dumps("4.2") & restores("4.2")


def test_a_criu_that_dies_of_a_key_is_not_given_it() -> None:
    assert "network-lock" not in dumps("4.1.1")
    assert "network-lock" in dumps("4.2")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_optional_argument_stands_behind_an_equals_sign_because_criu_ignores_it_behind_a_blank(
    option: Option,
) -> None:
    optional = ("manage-cgroups", "cpu-cap", "verbosity")  # criu/config.c, optional_argument
    assert not any(option.text.startswith(f"{key} ") for key in optional)


def test_on_cgroup_v2_both_sides_use_the_hierarchy_that_is_mounted_and_a_restore_the_new_cgroup() -> None:
    config = CriuConfig("4.1.1", "/run/woodfrog/cgroup-yard")
    assert "cgroup-yard /run/woodfrog/cgroup-yard\n" in config.for_dump()
    assert "cgroup-yard /run/woodfrog/cgroup-yard\n" in config.for_restore("/kubepods/x")
    assert "cgroup-root /kubepods/x\n" in config.for_restore("/kubepods/x")
    assert "cgroup-root" not in config.for_dump()


def test_on_cgroup_v1_runc_names_the_cgroups_itself() -> None:
    assert {"cgroup-yard", "cgroup-root"}.isdisjoint(dumps("4.2") | keys(CriuConfig("4.2").for_restore("/x")))


@pytest.mark.parametrize(
    ("text", "version"),
    [("4.2", (4, 2, 0)), ("Version: 4.1.1\n", (4, 1, 1)), ("Version: 4.2\nGitID: v4.2-77-g1\n", (4, 2, 0))],
)
def test_a_version_is_read_from_what_criu_prints(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no version"):
        parse_version("criu: command not found")
