"""A container of the pod changes its files while the worker copies them: nothing but regular files is ever opened."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeworker.capture.bounds import Bounds, Tally, measure
from nodeworker.capture.pinned import Pinned
from nodeworker.capture.trees import CapturedTree, copy_tree
from woodfrog.protocol.manifest import TreeName

SECRET = b"OF THE NODE " * 1000
RACE_SECONDS = 2.0
RENAME_EXCHANGE = 2
AT_FDCWD = -100


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[int]:
    """A block device of the node."""
    (tmp_path / "disk").write_bytes(SECRET.ljust(1 << 20, b"."))
    name = subprocess.run(
        ["losetup", "--find", "--show", tmp_path / "disk"], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield Path(name).stat().st_rdev
    subprocess.run(["losetup", "--detach", name], check=True)


def copied(volume: Path, spool: Path) -> CapturedTree:
    return copy_tree(TreeName.VOLUME, volume, spool, shared=True, volume="v")


def bytes_in(spool: Path) -> bytes:
    return b"".join(path.read_bytes() for path in spool.rglob("*") if path.is_file())


def opened_by(
    work: Callable[[], object], monkeypatch: pytest.MonkeyPatch, there: Path, swap: Callable[[], object]
) -> set[int]:
    """The types of what ``work`` opened for reading, while ``swap`` takes place right after its first look at what is ``there``."""
    real_open, real_fstat, real_stat = os.open, os.fstat, os.stat
    wanted, swaps = there.lstat().st_ino, []
    types: set[int] = set()

    def noted(path: object, flags: int, *rest: object, **more: object) -> int:
        descriptor: int = real_open(path, flags, *rest, **more)  # type: ignore[call-overload]
        if not flags & os.O_PATH:
            types.add(stat.S_IFMT(real_fstat(descriptor).st_mode))
        return descriptor

    def looked(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def seen(*rest: object, **more: object) -> os.stat_result:
            status = look(*rest, **more)
            if status.st_ino == wanted and not swaps:
                swaps.append(True)
                swap()
            return status

        return seen

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", noted)
        patched.setattr(os, "stat", looked(real_stat))
        patched.setattr(os, "fstat", looked(real_fstat))
        work()
    assert swaps, "it was looked at"
    return types


@pytest.mark.root
def test_a_device_that_takes_a_files_place_is_not_opened(
    volume: Path, disk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume / "a").write_bytes(b"x" * 65536)
    os.mknod(tmp_path / "device", 0o600 | stat.S_IFBLK, disk)
    types = opened_by(
        lambda: copied(volume, tmp_path / "spool"),
        monkeypatch,
        volume / "a",
        lambda: (tmp_path / "device").rename(volume / "a"),
    )
    assert types <= {stat.S_IFDIR, stat.S_IFREG}
    assert SECRET[:100] not in bytes_in(tmp_path / "spool")


def replaced_by_a_link(volume: Path, base: Path) -> Callable[[], None]:
    """Make a directory in a volume, and one of the node to which a link in its place would lead."""
    (base / "node").mkdir()
    (base / "node/secret").write_bytes(SECRET)
    (volume / "a").mkdir()

    def swap() -> None:
        (volume / "a").rename(base / "moved")
        (volume / "a").symlink_to(base / "node")

    return swap


def test_a_link_that_takes_a_directorys_place_is_not_followed(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = replaced_by_a_link(volume, tmp_path)
    opened_by(lambda: copied(volume, tmp_path / "spool"), monkeypatch, volume / "a", swap)
    assert bytes_in(tmp_path / "spool") == b""


def test_what_a_volume_holds_is_counted_without_following_links(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap, tally = replaced_by_a_link(volume, tmp_path), Tally(Bounds())
    opened_by(lambda: measure(volume, tally), monkeypatch, volume / "a", swap)
    assert (tally.files, tally.apparent_bytes) == (1, 0)


def test_only_a_regular_file_is_opened_for_its_bytes(volume: Path) -> None:
    os.mkfifo(volume / "fifo")
    (volume / "link").symlink_to("/etc/passwd")
    (volume / "directory").mkdir()
    parent = os.open(volume, os.O_RDONLY)
    try:
        for name in (b"fifo", b"link", b"directory"):
            with Pinned(name, parent) as found, pytest.raises(OSError, match="not a regular file"):
                found.open_file()
        with Pinned(b"link", parent) as found, pytest.raises(NotADirectoryError):
            found.open_directory()
    finally:
        os.close(parent)


def test_what_is_said_of_a_file_is_said_of_the_one_that_was_copied(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volume / "a").write_bytes(b"first")
    (volume / "a").chmod(0o600)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").chmod(0o4755)
    taken: list[CapturedTree] = []
    opened_by(
        lambda: taken.append(copied(volume, tmp_path / "spool")),
        monkeypatch,
        volume / "a",
        lambda: (tmp_path / "other").rename(volume / "a"),
    )
    (entry,) = taken[0].entries
    what = (entry.mode, taken[0].contents["a"].read_bytes())
    assert what in [(0o600, b"first"), (0o4755, b"other")]


@pytest.mark.root
def test_a_process_that_swaps_a_file_and_a_device_for_seconds_gets_nothing_copied(
    volume: Path, disk: int, tmp_path: Path
) -> None:
    (volume / "a").write_bytes(b"x" * 65536)
    os.mknod(volume / "b", 0o600 | stat.S_IFBLK, disk)
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        f"while True: libc.renameat2({AT_FDCWD}, b'a', {AT_FDCWD}, b'b', {RENAME_EXCHANGE})"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=volume) as swapping:
        try:
            ends = time.monotonic() + RACE_SECONDS
            copies = 0
            while time.monotonic() < ends or not copies:
                copied(volume, tmp_path / "spool")
                assert SECRET[:100] not in bytes_in(tmp_path / "spool"), f"copy {copies} holds the device's bytes"
                shutil.rmtree(tmp_path / "spool")
                (tmp_path / "spool.entries").unlink()
                copies += 1
        finally:
            swapping.kill()
