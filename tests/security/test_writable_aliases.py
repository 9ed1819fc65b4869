"""A volume that the new container mounts read-only cannot be written to at a second place that the snapshot's processes made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.criu_images import PLAIN, load, messages, put

from nodeworker import bundle
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from nodeworker.restore import privilege_check
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.privileges import Privileges

pytestmark = pytest.mark.timeout(20)

MOUNTS = "mountpoints-13.img"
CONFIG: dict[str, Any] = {
    "root": {"path": "rootfs"},
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/vol", "type": "bind", "source": "/tmp/vol", "options": ["rbind", "rw"]},
        {"destination": "/rovol", "type": "bind", "source": "/tmp/rovol", "options": ["rbind", "ro"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
}


def check(tmp_path: Path, images: dict[str, bytes]) -> privilege_check.Checked:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "rootfs").mkdir()
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    live = bundle.read(str(tmp_path))
    return privilege_check.check(folder, live, live.facts.privileges or Privileges(), None, (4, 2, 1))


def test_a_dump_without_a_second_place_is_restored_with_less(tmp_path: Path) -> None:
    assert "CAP_SYS_ADMIN" in " ".join(check(tmp_path, load(PLAIN)).lowered)


@pytest.mark.parametrize("key", [None, "/rovol"], ids=["bound by a process", "forged"])
def test_a_dump_with_a_writable_second_place_is_not_restored(tmp_path: Path, key: str | None) -> None:
    images = load(PLAIN)
    volume = next(raw for raw in messages(images, MOUNTS) if Message(raw, "mount").text(7) == "/rovol")
    changes = {
        2: number_field(2, 999),
        5: number_field(5, 0),
        7: data_field(7, b"/dev/again"),
        18: b"" if key is None else data_field(18, key.encode()),
    }
    put(images, MOUNTS, [Message(volume, "mount").rewritten(changes), *messages(images, MOUNTS)])
    with pytest.raises(FailureError, match="/dev/again") as problem:
        check(tmp_path, images)
    assert problem.value.failure.code == "privileges-exceed"
    assert "mounts read-only" in problem.value.failure.cause
