"""Taking a directory tree: a list of its entries, and copies of its files where the originals will not wait.

The copy is made while the container is frozen, so the kernel copies (or shares, where the file system can) and nothing is
hashed or compressed here. What the overlay file system writes into an upper directory is read as
Documentation/filesystems/overlayfs.rst of the kernel defines it: a character device 0/0 or the attribute
``trusted.overlay.whiteout`` is a deletion, ``trusted.overlay.opaque=y`` hides what lies below. Renamed directories (``redirect``)
and files of which only the attributes were copied up (``metacopy``) name places in the layers below that another node
may not have; both are off by default, and refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nodeworker.domain.names import text_of
from nodeworker.domain.problems import disk_full, is_disk_full
from protocol.failures import Failure, FailureError
from protocol.manifest import Entry, EntryKind, Root, TreeName

KEPT_XATTRS = frozenset({"security.capability", "system.posix_acl_access", "system.posix_acl_default"})
"""Besides ``user.*``. Labels of security modules belong to the node, ``trusted.*`` to the node's file systems."""
_OVERLAY = "trusted.overlay."
_UNSUPPORTED = frozenset({"redirect", "metacopy"})
_LIMIT_DEPTH = 500
"""Every level holds a file descriptor and a stack frame."""
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
ASIDE = b".woodfrog-aside"
"""In the top directory of a volume, while a snapshot is put there: see ``aside``."""
_COPY_BYTES = 1 << 30
_BUFFER_BYTES = 1 << 20
_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})
_KINDS: Mapping[int, EntryKind] = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class CapturedTree:
    """A tree as it lies on this node; ``contents`` says in which local file the bytes of a non-empty file entry are."""

    name: TreeName
    entries: tuple[Entry, ...]
    contents: Mapping[str, Path]
    warnings: tuple[str, ...] = ()
    """What was left behind and why (device nodes), for the manifest's ``warnings``."""
    root: Root | None = None
    volume: str = ""


def list_tree(name: TreeName, root: Path) -> CapturedTree:
    """List what is under ``root``; content stays where it is, so ``root`` must stay as it is until it is stored.

    Several names of one file are listed as several files.

    Raises:
        FailureError: ``tree-too-deep``.
        OSError: ``root`` cannot be read.
    """
    walk = _Walk(overlay=False, spool=None)
    walk.take(root)
    contents = {
        entry.path: root / path for entry, path in zip(walk.entries, walk.paths, strict=True) if entry.size_bytes
    }
    return CapturedTree(name, tuple(walk.entries), contents, tuple(walk.warnings))


def copy_tree(
    name: TreeName, root: Path, spool: Path, *, overlay: bool = False, shared: bool = False, volume: str = ""
) -> CapturedTree:
    """Copy everything under ``root`` into ``spool``, which is made if need be. Several names stay one file, holes holes.

    ``overlay`` reads ``root`` as an overlay's upper directory. ``shared`` says that others than the frozen container may
    change ``root`` meanwhile: what vanishes is not taken, what shrinks is taken as it is. Otherwise nobody may.

    Raises:
        FailureError: ``disk-full``, ``tree-too-deep``, or ``overlay-unsupported`` for redirected or metacopied entries.
        OSError: something cannot be read or written.
    """
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    walk = _Walk(overlay=overlay, spool=spool, shared=shared)
    try:
        walk.take(root)
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(spool), str(problem)) from problem
        raise
    return CapturedTree(name, tuple(walk.entries), walk.copies, tuple(walk.warnings), root_of(root), volume)


def root_of(place: Path | int) -> Root:
    """Tell what a directory itself is like, by its path or an open descriptor.

    Raises:
        OSError: there is none at ``place``.
    """
    descriptor = (
        os.dup(place) if isinstance(place, int) else os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    )
    try:
        status = os.fstat(descriptor)
        xattrs, _ = _xattrs(b"/proc/self/fd/%d" % descriptor, follow=True)
    finally:
        os.close(descriptor)
    return Root(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


class _Walk:
    """One pass over a tree, directories before what is in them, names in order of their bytes."""

    def __init__(self, *, overlay: bool, spool: Path | None, shared: bool = False) -> None:
        self._overlay = overlay
        self._spool = spool
        self._shared = shared
        self._seen: dict[tuple[int, int], str] = {}
        self.entries: list[Entry] = []
        self.paths: list[str] = []
        self.copies: dict[str, Path] = {}
        self.warnings: list[str] = []

    def take(self, root: Path) -> None:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._directory(descriptor, b"", 0)
        finally:
            os.close(descriptor)

    def _directory(self, descriptor: int, prefix: bytes, depth: int) -> None:
        if depth > _LIMIT_DEPTH:
            raise FailureError(
                Failure(
                    "tree-too-deep",
                    f"Directories are nested more than {_LIMIT_DEPTH} deep below {os.fsdecode(prefix[:100])}.",
                    "Have the container remove them; checkpoints do not go that deep.",
                )
            )
        for name in sorted(os.fsencode(name) for name in os.listdir(descriptor)):
            if self._shared and depth == 0 and name == ASIDE:
                continue
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                path = prefix + name
                if self._entry(descriptor, name, path, status) and stat.S_ISDIR(status.st_mode):
                    with _opened(name, os.O_DIRECTORY, descriptor) as child:
                        self._directory(child, path + b"/", depth + 1)
            except OSError as problem:
                if not (self._shared and problem.errno in _VANISHED):
                    raise

    def _entry(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> bool:
        """Record one entry; tell whether it was taken."""
        text = text_of(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            if not (self._overlay and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                self.warnings.append(f"The device node {text} was left behind: snapshots hold no devices.")
            if self._overlay:  # what a device node has replaced in the image must not come back in its place
                self._add(Entry(text, "whiteout"), path)
            return False
        identity = (status.st_dev, status.st_ino)
        first = self._seen.get(identity)
        if first is not None:
            self._add(self._described(text, kind, status, hardlink=first), path)
            return True
        xattrs, marks = _xattrs(b"/proc/self/fd/%d/%s" % (parent, name))  # by descriptor, following nothing
        if self._overlay:
            self._check_marks(text, marks)
            if kind == "file" and "whiteout" in marks:
                self._add(Entry(text, "whiteout"), path)
                return False
        opaque = self._overlay and kind == "directory" and marks.get("opaque") == b"y"
        target = text_of(os.readlink(name, dir_fd=parent)) if kind == "symlink" else None
        size = status.st_size if kind == "file" else 0
        if size and self._spool is not None:
            copy = self._spool / str(len(self.entries))
            size = _copy_file(parent, name, copy, status, may_shrink=self._shared)
            if size:
                self.copies[text] = copy
        self._add(self._described(text, kind, status, opaque=opaque, target=target, xattrs=xattrs, size=size), path)
        if status.st_nlink > 1 and kind != "directory" and self._spool is not None:
            self._seen[identity] = text
        return True

    @staticmethod
    def _described(
        text: str,
        kind: EntryKind,
        status: os.stat_result,
        *,
        opaque: bool = False,
        target: str | None = None,
        hardlink: str | None = None,
        xattrs: dict[str, bytes] | None = None,
        size: int = 0,
    ) -> Entry:
        return Entry(
            path=text,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            size_bytes=size,
            target=target,
            hardlink=hardlink,
            opaque=opaque,
            xattrs=xattrs or {},
        )

    @staticmethod
    def _check_marks(text: str, marks: dict[str, bytes]) -> None:
        unsupported = sorted(_UNSUPPORTED & marks.keys())
        if unsupported:
            raise FailureError(
                Failure(
                    "overlay-unsupported",
                    f"The writable layer uses overlayfs's {' and '.join(unsupported)} at {text}.",
                    "Mount container file systems with redirect_dir=off and metacopy=off, as container engines do by default.",
                )
            )

    def _add(self, entry: Entry, path: bytes) -> None:
        self.entries.append(entry)
        self.paths.append(os.fsdecode(path))


@contextmanager
def _opened(name: bytes, flags: int, parent: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _xattrs(path: bytes, *, follow: bool = False) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read the attributes that travel, and overlayfs's own marks."""
    kept: dict[str, bytes] = {}
    marks: dict[str, bytes] = {}
    try:
        listed = os.listxattr(path, follow_symlinks=follow)
    except OSError as problem:
        if problem.errno == errno.ENOTSUP:
            return kept, marks
        raise
    for attribute in listed:
        if attribute.startswith("user.") or attribute in KEPT_XATTRS:
            kept[text_of(os.fsencode(attribute))] = os.getxattr(path, attribute, follow_symlinks=follow)
        elif attribute.startswith(_OVERLAY):
            marks[attribute.removeprefix(_OVERLAY)] = os.getxattr(path, attribute, follow_symlinks=follow)
    return kept, marks


def _copy_file(parent: int, name: bytes, copy: Path, status: os.stat_result, *, may_shrink: bool) -> int:
    """Copy a file's first ``st_size`` bytes, or as many as there are; say how many."""
    size = status.st_size
    with _opened(name, os.O_NONBLOCK, parent) as source:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if status.st_blocks * 512 >= size:
                _copy_range(source, target, 0, size)
            else:
                os.ftruncate(target, size)
                for start, stop in data_ranges(source, size):
                    _copy_range(source, target, start, stop)
        except _ShrunkError:
            if not may_shrink:
                raise
            size = min(size, os.fstat(source).st_size)
            os.ftruncate(target, size)
        finally:
            os.close(target)
    return size


class _ShrunkError(OSError):
    """A file became shorter while it was copied."""


def data_ranges(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that are not holes; lseek(2), SEEK_DATA."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as problem:
            if problem.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size_bytes)
        yield start, position


def _copy_range(source: int, target: int, start: int, stop: int) -> None:
    """Copy bytes within the kernel; between file systems, where it refuses, through a buffer."""
    in_kernel = True
    while start < stop:
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, min(stop - start, _COPY_BYTES), start, start)
            except OSError as problem:
                if problem.errno not in _NO_KERNEL_COPY:
                    raise
                count = 0
            if count == 0:
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(stop - start, _BUFFER_BYTES), start)
            if not data:
                raise _ShrunkError(errno.EIO, "a file became shorter while it was copied")
            count = os.pwrite(target, data, start)
        start += count
