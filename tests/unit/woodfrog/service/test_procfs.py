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
    assert found["/proc"] == procfs.Mount(f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "/proc", "proc")


def test_a_place_with_a_blank_is_written_as_people_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line = r"36 35 98:0 /mnt1 /a\040b rw,noatime shared:1 - mqueue mqueue rw"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: line)
    assert procfs.mounts(1) == [procfs.Mount("98:0", "/a b", "mqueue")]
