"""A worker's settings come from its environment and are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.settings import from_environment
from woodfrog.service.env import InvalidSettingError

pytestmark = pytest.mark.timeout(5)


def test_an_empty_environment_gives_a_worker_for_this_machine() -> None:
    settings = from_environment({"WOODFROG_NODE": "node-a"})
    assert settings.store_url == "file:///var/lib/woodfrog/store"
    assert settings.socket == Path("/run/woodfrog/worker.sock")
    assert settings.create_limit_seconds < 120, "the kubelet gives up after two minutes"


def test_the_store_follows_the_state_directory() -> None:
    assert from_environment({"WOODFROG_NODE": "n", "WOODFROG_STATE_DIR": "/srv/w"}).store_url == "file:///srv/w/store"


def test_the_drivers_libraries_are_looked_for_unless_their_folder_is_named() -> None:
    assert from_environment({"WOODFROG_NODE": "n"}).nvidia_libraries is None
    named = from_environment({"WOODFROG_NODE": "n", "WOODFROG_NVIDIA_LIBRARIES": "/opt/nvidia/lib"})
    assert named.nvidia_libraries == Path("/opt/nvidia/lib")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WOODFROG_NODE", "a/b"),
        ("WOODFROG_CLUSTER", ".."),
        ("WOODFROG_STATE_DIR", "relative"),
        ("WOODFROG_STATE_DIR", "/with a blank"),
        ("WOODFROG_CREATE_LIMIT_SECONDS", "soon"),
        ("WOODFROG_STOP_LIMIT_SECONDS", "-1"),
        ("WOODFROG_STORE_ATTEMPTS", "nan"),
        ("WOODFROG_PRIVILEGES", "off"),
        ("WOODFROG_COPIES", "some"),
        ("WOODFROG_COPIES_AGE", "soon"),
        ("WOODFROG_COPIES_SPARE_PERCENT", "100"),
        ("WOODFROG_COPIES_SPARE_PERCENT", "nan"),
        ("WOODFROG_COPIES_SPARE_PERCENT", "10%"),
        ("WOODFROG_REHEARSE", "sometimes"),
        ("WOODFROG_REHEARSE_MEMORY", "some"),
        ("WOODFROG_REHEARSE_LIMIT", "soon"),
        ("WOODFROG_GPU_LOCK_SECONDS", "0"),
        ("WOODFROG_NVIDIA_LIBRARIES", "lib"),
        ("WOODFROG_DUMPS_AT_ONCE", "0"),
        ("WOODFROG_DUMPS_AT_ONCE", "1.5"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidSettingError, match=name):
        from_environment({"WOODFROG_NODE": "node-a"} | {name: value})
