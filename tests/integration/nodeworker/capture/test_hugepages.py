"""Which emptyDirs of a pod a capture takes along, by what the kubelet really mounts there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nodeworker import bundle

UID = "4f1c2d4e"
POD = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-namespace": "research",
    "io.kubernetes.cri.sandbox-uid": UID,
}


@pytest.mark.root
def test_an_empty_dir_of_huge_pages_does_not_travel_and_those_in_memory_and_on_disk_do(tmp_path: Path) -> None:
    place = tmp_path / "pods" / UID / "volumes" / "kubernetes.io~empty-dir"
    names = ("huge", "memory", "disk")
    for name in names:
        (place / name).mkdir(parents=True)
    mounts = [
        {"destination": f"/{name}", "type": "bind", "source": f"{place}/{name}", "options": ["rbind"]} for name in names
    ]
    config = {"root": {"path": "rootfs"}, "annotations": POD, "mounts": mounts}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mounted = []
    try:
        for name, kind in (("huge", "hugetlbfs"), ("memory", "tmpfs")):
            subprocess.run(["mount", "-t", kind, "none", place / name], check=True, timeout=20)
            mounted.append(place / name)
        assert list(bundle.read(str(tmp_path)).travelling) == ["memory", "disk"]
    finally:
        for each in mounted:
            subprocess.run(["umount", each], check=True, timeout=20)
