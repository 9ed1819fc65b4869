"""What the kernel tells of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from woodfrog.service import procfs

pytestmark = pytest.mark.timeout(5)


def test_a_mount_has_its_device_its_place_and_its_kind() -> None:
    found = {mount.place: mount for mount in procfs.mounts(os.getpid())}
    status = Path("/proc").stat()
    there = found["/proc"]
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    assert (there.device, there.root, there.kind, "rw" in there.options) == (device, "/", "proc", True)


def test_a_place_with_a_blank_is_written_as_people_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line = r"36 35 98:0 /mnt\0401 /ü\040b\134 rw,noatime shared:1 - mqueue mqueue rw,size=1"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{line}\n")
    assert procfs.mounts(1) == [procfs.Mount("98:0", "/mnt 1", "/ü b\\", "mqueue", ("rw", "size=1"))]
