"""A restored container's /dev shows the devices of its live bundle, whatever lies there and wherever it leads."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeworker.capture.gpu.devices import renew
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.root

PROGRAM = "import os, signal, sys; os.chroot(sys.argv[1]); print('in', flush=True); signal.pause()"


def device(name: str, minor: int = 237, **changes: Any) -> dict[str, Any]:
    return {
        "path": f"/dev/{name}",
        "type": "c",
        "major": 10,
        "minor": minor,
        "fileMode": 0o660,
        "uid": 0,
        "gid": 7,
    } | changes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "dev").mkdir(parents=True)
    return made


@pytest.fixture
def pid(root: Path) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(root)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.send_signal(signal.SIGKILL)


def test_the_bundles_nodes_take_the_place_of_the_snapshots(root: Path, pid: int) -> None:
    os.mknod(root / "dev/nvidia0", stat.S_IFCHR | 0o666, os.makedev(10, 237))
    os.mknod(root / "dev/nvidiactl", stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "dev/nvidia.txt").touch()
    renew(pid, [device("nvidiactl"), device("nvidia3"), device("nvidia-caps/nvidia-cap1"), device("fuse")])
    assert {path.name for path in (root / "dev").iterdir()} == {
        "nvidiactl",
        "nvidia3",
        "nvidia-caps",
        "null",
        "nvidia.txt",
    }
    made = (root / "dev/nvidia3").stat()
    assert (made.st_rdev, stat.S_IMODE(made.st_mode), made.st_gid) == (os.makedev(10, 237), 0o660, 7)
    assert (root / "dev/nvidiactl").stat().st_rdev == os.makedev(10, 237)
    assert (root / "dev/nvidia-caps/nvidia-cap1").is_char_device()


def test_a_bundle_that_names_no_nodes_changes_nothing(root: Path, pid: int) -> None:
    os.mknod(root / "dev/nvidia0", stat.S_IFCHR | 0o666, os.makedev(10, 237))
    renew(pid, [device("fuse")])
    assert (root / "dev/nvidia0").exists()


def test_a_link_leads_nowhere(root: Path, pid: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "dev").rmdir()
    (root / "dev").symlink_to(outside)
    with pytest.raises(FailureError, match="gpu-devices"):
        renew(pid, [device("nvidiactl")])
    assert list(outside.iterdir()) == []


def test_a_link_in_a_nodes_place_is_replaced_and_not_followed(root: Path, pid: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (root / "dev/nvidiactl").symlink_to(victim)
    renew(pid, [device("nvidiactl")])
    assert victim.read_text() == "kept"
    assert (root / "dev/nvidiactl").is_char_device()
