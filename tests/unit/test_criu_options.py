"""Which options a CRIU gets."""

from __future__ import annotations

import pytest

from nodeworker.domain.criu_options import dump_config, parse_version, restore_config

pytestmark = pytest.mark.timeout(5)


def keys(config: str) -> set[str]:
    return {line.split()[0] for line in config.splitlines()}


def test_a_dump_never_gets_what_only_a_restore_may_have() -> None:
    assert "leave-stopped" in keys(restore_config("4.1"))
    assert "leave-stopped" not in keys(dump_config("4.1"))
    assert keys(restore_config("4.1")).isdisjoint({"ghost-limit", "link-remap", "timeout", "network-lock"})


@pytest.mark.parametrize("config", [dump_config, restore_config])
def test_both_sides_close_tcp_connections_because_criu_insists(config: object) -> None:
    assert callable(config)
    assert "tcp-close" in keys(config("4.1.1"))


def test_an_older_criu_is_not_told_what_it_does_not_know() -> None:
    assert "allow-uprobes" not in keys(dump_config("4.1.1")) | keys(restore_config("4.1.1"))
    assert "allow-uprobes" in keys(dump_config("4.2")) & keys(restore_config("4.2"))
    assert "network-lock" not in keys(dump_config("3.17.1"))
    assert "network-lock" in keys(dump_config("3.19"))


@pytest.mark.parametrize(
    ("text", "version"),
    [("4.2", (4, 2, 0)), ("Version: 4.1.1\n", (4, 1, 1)), ("Version: 4.2\nGitID: v4.2-77-g1\n", (4, 2, 0))],
)
def test_a_version_is_read_from_what_criu_prints(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no version"):
        parse_version("criu: command not found")
