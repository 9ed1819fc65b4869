"""The overlay mount of a container's root filesystem: where it is, and how to make it pristine again.

A layer is applied to the mounted view, before the container exists. If the restore then fails, the container starts cold,
and must not see a trace of it. Deleting what was applied is not enough: overlayfs has by then left whiteouts, copied-up
directories and indices behind. So the file system is unmounted, its upper and work directories are emptied, and it is
mounted again as it was. Emptying them under a mounted overlay is undefined (overlayfs.rst, "Changes to underlying filesystems").
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service import libc

_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_LAYERS = frozenset({b"lowerdir", b"lowerdir+", b"upperdir", b"workdir"})
_NOT_MINE = frozenset({b"ro", b"rw", b"seclabel"})
"""Superblock options that the kernel shows and mount(2) takes as flags, or not at all."""
_FLAGS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
"""Mount options that are flags, as in <sys/mount.h>."""
_PAGE_BYTES = 4096
"""mount(2) takes one page of options."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay mount.

    ``lower`` is ordered from top to bottom. ``options`` are all others: first the mount's own (``rw``, ``nosuid``), which are
    flags of mount(2), then the file system's (``index=off``).
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    mountpoint: Path
    options: tuple[str, ...]


def find_overlay(rootfs: Path) -> Overlay | None:
    """Find the writable overlay that is mounted at ``rootfs``, or ``None`` if something else, or nothing, is there.

    Of several mounts at the same place the topmost counts.

    Raises:
        OSError: /proc cannot be read.
    """
    wanted = os.path.realpath(os.fsencode(rootfs))
    found = None
    for line in _MOUNTINFO.read_bytes().splitlines():
        fields = line.split(b" ")
        if _unescaped(fields[4]) == wanted:
            found = fields
    return None if found is None else _parsed(found)


def undo(overlay: Overlay) -> None:
    """Unmount, empty the upper and the work directory, and mount again with the same options.

    Raises:
        FailureError: ``rootfs-busy`` if something still uses the mount, and nothing has been changed; ``rootfs-lost`` if it could
            not be mounted again.
        OSError: the upper directory cannot be emptied.
    """
    try:
        libc.unmount(overlay.mountpoint)
    except OSError as problem:
        raise FailureError(
            Failure(
                "rootfs-busy",
                f"The root filesystem at {overlay.mountpoint} cannot be unmounted: {problem.strerror}.",
                "Find what uses it (fuser -m); the container will be created again by its engine.",
            )
        ) from problem
    try:
        for directory in (overlay.upper, overlay.work):
            _empty(directory)
    finally:
        _in_own_directory(lambda: _mount(overlay))


def mount(overlay: Overlay) -> None:
    """Mount an overlay.

    Raises:
        FailureError: ``rootfs-lost``.
    """
    _in_own_directory(lambda: _mount(overlay))


def _parsed(fields: list[bytes]) -> Overlay | None:
    """Read one line of mountinfo; proc_pid_mountinfo(5)."""
    separator = fields.index(b"-")
    if fields[separator + 1] != b"overlay":
        return None
    lower: list[bytes] = []
    places: dict[bytes, bytes] = {}
    options = fields[5].decode("ascii").split(",")
    for option in fields[separator + 3].split(b","):
        name, _, value = option.partition(b"=")
        if name == b"lowerdir":
            lower = _split_layers(value)
        elif name == b"lowerdir+":
            lower.append(_unescaped(value))
        elif name in _LAYERS:
            places[name] = _unslashed(_unescaped(value))
        elif name not in _NOT_MINE:
            options.append(os.fsdecode(_unescaped(option)))
    if b"upperdir" not in places or b"workdir" not in places or not lower:
        return None
    upper = os.fsdecode(places[b"upperdir"])
    work = os.fsdecode(places[b"workdir"])
    layers = _absolute([os.fsdecode(each) for each in lower], upper)
    return Overlay(layers, Path(upper), Path(work), Path(os.fsdecode(_unescaped(fields[4]))), tuple(options))


def _unescaped(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def _unslashed(raw: bytes) -> bytes:
    r"""Undo overlayfs's own escapes: ``\:``, ``\,`` and ``\\``."""
    return re.sub(rb"\\(.)", rb"\1", raw, flags=re.DOTALL)


def _split_layers(value: bytes) -> list[bytes]:
    r"""Split a ``lowerdir`` at its colons.

    The kernel shows the text that mount(2) was given, in which a colon of a name is ``\:``; 6.5 to 6.7 show names, in which it
    is an octal escape. A literal colon with no backslash before it therefore separates in both.
    """
    layers = re.findall(rb"(?:\\134\\134|\\134:|[^:])+", value)
    return [_unslashed(_unescaped(layer)) for layer in layers]


def _absolute(lower: list[str], upper: str) -> tuple[Path, ...]:
    """Make relative layers absolute: containerd shortens long lists by changing to their common directory.

    That directory (``…/snapshots``) is above the upper directory, which it leaves absolute (mount/mount_linux.go).
    """
    if all(path.startswith("/") for path in lower):
        return tuple(Path(path) for path in lower)
    for base in Path(upper).parents:
        if all((base / path).is_dir() for path in lower):
            return tuple(base / path for path in lower)
    raise FailureError(
        Failure(
            "overlay-unsupported",
            f"The lower directories of {upper} are relative and were not found above it.",
            "Report this with the line of /proc/self/mountinfo.",
            ":".join(lower),
        )
    )


def _empty(directory: Path) -> None:
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _mount(overlay: Overlay) -> None:
    """Mount, having changed to the layers' common directory if their absolute paths are too long for mount(2)."""
    flags = 0
    others: list[str] = []
    for option in overlay.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option != "rw":
            others.append(option)
    layers = [os.fsencode(path) for path in overlay.lower]
    data = _data(layers, overlay, others)
    if len(data) >= _PAGE_BYTES:
        common = os.path.commonpath(layers)
        os.chdir(common)
        data = _data([os.path.relpath(path, common) for path in layers], overlay, others)
    try:
        libc.mount("overlay", overlay.mountpoint, "overlay", flags, data)
    except OSError as problem:
        raise FailureError(
            Failure(
                "rootfs-lost",
                f"The root filesystem at {overlay.mountpoint} could not be mounted again: {problem.strerror}.",
                "The container engine creates a new one with the next container.",
                os.fsdecode(data),
            )
        ) from problem


def _data(layers: list[bytes], overlay: Overlay, others: list[str]) -> bytes:
    def slashed(path: bytes, special: bytes) -> bytes:
        return re.sub(rb"([\\,%s])" % special, rb"\\\1", path)

    pieces = [
        b"lowerdir=" + b":".join(slashed(layer, b":") for layer in layers),
        b"upperdir=" + slashed(os.fsencode(overlay.upper), b""),
        b"workdir=" + slashed(os.fsencode(overlay.work), b""),
        *map(os.fsencode, others),
    ]
    return b",".join(pieces)


def _in_own_directory(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread with a current directory of its own, so that it may change it; unshare(2), CLONE_FS."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            libc.unshare(libc.CLONE_FS)
            work()
        except BaseException as problem:  # noqa: BLE001 (raised again by the thread that waits)
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
