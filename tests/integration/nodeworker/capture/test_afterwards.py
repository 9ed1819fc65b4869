"""Mounts of a restored container are set right while its processes are stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture import afterwards
from nodeworker.capture.afterwards import Afterwards

pytestmark = [pytest.mark.timeout(60), pytest.mark.root]

CONTAINER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
root = sys.argv[1].encode()
assert libc.unshare(0x20000) == 0
assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
assert libc.mount(root, root, None, MS_BIND, None) == 0
os.chdir(root)
assert libc.syscall(155, b".", b".") == 0  # pivot_root
assert libc.umount2(b".", 2) == 0
os.chdir("/")
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    for folder in ("sys/devices/power", "sys/devices/other", "elsewhere"):
        (tmp_path / "root" / folder).mkdir(parents=True)
        (tmp_path / "root" / folder / "secret").write_text("of the hardware")
    return tmp_path / "root"


@pytest.fixture
def container(rootfs: Path) -> Iterator[int]:
    """A process in a mount namespace and root of its own."""
    with subprocess.Popen([sys.executable, "-c", CONTAINER, rootfs], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_a_root_becomes_read_only_for_the_container_and_for_nobody_else(container: int, rootfs: Path) -> None:
    inside = Path(f"/proc/{container}/root")
    (inside / "before").write_text("x")
    afterwards.do([container], Afterwards(read_only_root=True))
    with pytest.raises(OSError, match="Read-only"):
        (inside / "after").write_text("x")
    (rootfs / "outside").write_text("x")
    Path(rootfs.parent / "node").write_text("x")


def test_directories_are_masked_where_they_are_there(container: int) -> None:
    inside = Path(f"/proc/{container}/root")
    afterwards.do([container], Afterwards(mask=("/sys/devices/power", "/sys/devices/none", "/proc/none/below")))
    assert list((inside / "sys/devices/power").iterdir()) == []
    with pytest.raises(OSError, match="Read-only"):
        (inside / "sys/devices/power/mine").write_text("x")
    assert (inside / "sys/devices/other/secret").exists()
    assert Path("/sys/devices").is_dir()


def test_a_link_leads_no_mask_elsewhere(container: int, rootfs: Path) -> None:
    (rootfs / "sys/link").symlink_to("/elsewhere")
    for place in ("/sys/link", "/sys/link/secret"):
        with pytest.raises(NotADirectoryError):
            afterwards.do([container], Afterwards(mask=(place,)))
    assert (rootfs / "elsewhere/secret").exists()


def test_a_container_in_the_nodes_own_mount_namespace_is_refused() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        with pytest.raises(OSError, match="no mount namespace of its own"):
            afterwards.do([process.pid], Afterwards(read_only_root=True))
        process.kill()
