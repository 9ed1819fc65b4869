"""What `woodfrog run` accepts and what it makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from woodfrog.local.oci_bundle import (
    BadInputError,
    BindMount,
    ContainerSpec,
    check_distinct,
    check_hostname,
    hostname_from,
    oci_config,
    parse_env,
    parse_mount,
    write_config,
)

pytestmark = pytest.mark.timeout(5)


def config(**changes: Any) -> dict[str, Any]:
    spec = ContainerSpec(args=("true",), hostname="frog", image="dir:/", **changes)
    return oci_config(
        spec,
        root=Path("/state/rootfs"),
        network=Path("/state/network"),
        id_variable="CEDANA_CHECKPOINT",
        checkpoint_id="count",
        cgroup="/woodfrog/c1",
    )


def destinations(described: dict[str, Any]) -> list[str]:
    return [mount["destination"] for mount in described["mounts"]]


@pytest.mark.parametrize(
    ("text", "read_only"),
    [
        ("type=bind,src={0},dst=/data", False),
        ("type=bind,source={0},target=/data,ro", True),
        ("src={0},destination=/data/,readonly=true", True),
        ("{0}:/data", False),
        ("{0}:/data:rw", False),
        ("{0}://data/.:ro", True),
    ],
)
def test_a_mount_may_be_written_in_the_long_and_in_the_short_form(tmp_path: Path, text: str, read_only: bool) -> None:
    assert parse_mount(text.format(tmp_path)) == BindMount(str(tmp_path), "/data", read_only)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{0}", "neither"),
        ("{0}:/a:rx", "neither"),
        ("type=tmpfs,src={0},dst=/a", "tmpfs"),
        ("type=bind,src={0}", "dst="),
        ("type=bind,src={0},dst=/a,shared", "shared"),
        ("relative:/a", "absolute"),
        ("{0}:a", "absolute"),
        ("{0}:/a/../etc", "'..'"),
        ("{0}:/", "--rootfs"),
        ("{0}:/proc/sys", "/proc"),
        ("{0}:/dev", "/dev"),
        ("{0}/missing:/a", "does not exist"),
    ],
)
def test_a_mount_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(BadInputError, match="--mount") as refused:
        parse_mount(text.format(tmp_path))
    assert word in str(refused.value)


def test_two_mounts_at_one_place_are_refused(tmp_path: Path) -> None:
    twice = (BindMount("/a", "/data"), BindMount("/b", "/data"))
    with pytest.raises(BadInputError, match="/data"):
        check_distinct(twice)


def test_a_variable_may_hold_anything_behind_its_first_equals_sign() -> None:
    assert parse_env("A=b=c d", "CEDANA_CHECKPOINT") == ("A", "b=c d")
    assert parse_env("EMPTY=", "CEDANA_CHECKPOINT") == ("EMPTY", "")


@pytest.mark.parametrize("text", ["A", "=b", "1A=b", "A-B=c", "CEDANA_CHECKPOINT=other"])
def test_a_variable_that_cannot_be_set_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInputError, match="--env"):
        parse_env(text, "CEDANA_CHECKPOINT")


@pytest.mark.parametrize("checkpoint_id", ["a", "a.b_c", "x" * 253, "a" + "." * 100 + "b"])
def test_every_id_gives_a_host_name_that_may_be_one(checkpoint_id: str) -> None:
    assert check_hostname(hostname_from(checkpoint_id))


@pytest.mark.parametrize("name", ["", "a b", "-a", "a-", "x" * 64, "a.b"])
def test_a_host_name_that_may_be_none_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInputError, match="--name"):
        check_hostname(name)


def test_the_id_is_the_variable_whatever_else_the_environment_holds() -> None:
    environment = config(env=(("PATH", "/mine"), ("A", "b")))["process"]["env"]
    assert "CEDANA_CHECKPOINT=count" in environment
    assert [pair for pair in environment if pair.startswith("PATH=")] == ["PATH=/mine"]


def test_no_container_gets_a_terminal_which_criu_could_not_carry() -> None:
    assert config()["process"]["terminal"] is False


def test_pids_and_names_are_free_at_the_restore_because_the_namespaces_are_the_containers_own() -> None:
    kinds = {namespace["type"] for namespace in config()["linux"]["namespaces"]}
    assert {"pid", "mount", "uts", "ipc", "network"} <= kinds


def test_a_bind_at_dev_shm_takes_the_place_of_the_containers_own() -> None:
    shared = config(mounts=(BindMount("/somewhere", "/dev/shm"),))
    assert destinations(shared).count("/dev/shm") == 1
    assert destinations(config()).count("/dev/shm") == 1


def test_a_read_only_mount_is_bound_read_only() -> None:
    mounts = config(mounts=(BindMount("/a", "/data", read_only=True), BindMount("/b", "/more")))["mounts"]
    options = {mount["destination"]: mount.get("options", []) for mount in mounts}
    assert "ro" in options["/data"]
    assert "ro" not in options["/more"]


def test_what_is_hidden_is_masked() -> None:
    assert "/state" in config(hidden=("/state",))["linux"]["maskedPaths"]


def test_the_environment_is_readable_for_root_only(tmp_path: Path) -> None:
    write_config(tmp_path, config())
    written = tmp_path / "config.json"
    assert written.stat().st_mode & 0o777 == 0o600
    assert json.loads(written.read_text())["hostname"] == "frog"
