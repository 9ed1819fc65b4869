"""What a bundle's config.json says about its container, and what it may not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodeworker import bundle
from protocol.facts import ContainerFacts
from protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)

CONFIG: dict[str, Any] = {
    "root": {"path": "rootfs"},
    "annotations": {
        "io.kubernetes.cri.sandbox-namespace": "research",
        "io.kubernetes.cri.image-name": "registry/trainer:1",
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/shm", "type": "bind", "source": "/pod/shm", "options": ["rbind", "rw"]},
    ],
}


def written(folder: Path, config: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_pods_container_tells_its_namespace_image_mounts_and_shared_memory(tmp_path: Path) -> None:
    read = bundle.read(written(tmp_path, CONFIG))
    assert read.namespace == "research"
    assert read.facts == ContainerFacts(image="registry/trainer:1", mounts=("/dev/shm", "/proc"))
    assert read.shm_source == Path("/pod/shm")
    assert read.rootfs == tmp_path / "rootfs"


def test_a_tmpfs_of_the_containers_own_is_no_shared_memory_from_outside(tmp_path: Path) -> None:
    mounts = [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}]
    assert bundle.read(written(tmp_path, CONFIG | {"mounts": mounts})).shm_source is None


def test_a_bare_bundle_names_neither_namespace_nor_image(tmp_path: Path) -> None:
    read = bundle.read(written(tmp_path, {"root": {"path": "/elsewhere"}}))
    assert (read.namespace, read.facts, read.rootfs) == (None, ContainerFacts(), Path("/elsewhere"))


@pytest.mark.parametrize("config", [[], {}, {"root": 1}, {"root": {"path": "r"}, "mounts": [{}]}])
def test_a_config_that_is_none_is_refused_by_name(tmp_path: Path, config: Any) -> None:
    with pytest.raises(FailureError, match="bundle-unreadable"):
        bundle.read(written(tmp_path, config))


def test_a_missing_bundle_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="bundle-unreadable"):
        bundle.read(str(tmp_path / "nowhere"))
