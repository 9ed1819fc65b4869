"""Taking a directory tree: a list of its entries, and copies of its files where the originals will not wait.

The copy is made while the container is frozen, so the kernel copies (or shares, where the file system can) and nothing is
hashed or compressed here. Other containers of its pod are not frozen, so everything is said of the very inode that is copied
(``pinned``), and there is a limit to how much is copied (``bounds``). What the overlay file system writes into an upper directory is read as
Documentation/filesystems/overlayfs.rst of the kernel defines it: a character device 0/0 or the attribute
``trusted.overlay.whiteout`` is a deletion, ``trusted.overlay.opaque=y`` hides what lies below. Renamed directories (``redirect``)
and files of which only the attributes were copied up (``metacopy``) name places in the layers below that another node
may not have; both are off by default, and refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nodeworker.capture.bounds import Bounds, Tally, refuse_too_deep
from nodeworker.capture.pinned import Pinned, names_in, opened_root
from nodeworker.capture.trees.entry_list import EntryWriter, NumberedFiles, beside
from nodeworker.domain.common_failures import disk_full, is_disk_full
from nodeworker.domain.filename_codec import bytes_of, text_of
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.manifest import Entry, EntryKind, Root, TreeName

KEPT_XATTRS = frozenset({"security.capability", "system.posix_acl_access", "system.posix_acl_default"})
"""Besides ``user.*``. Labels of security modules belong to the node, ``trusted.*`` to the node's file systems."""
_OVERLAY = "trusted.overlay."
_UNSUPPORTED = frozenset({"redirect", "metacopy"})
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
ASIDE = b".woodfrog-aside"
"""In the top directory of a volume, while a snapshot is put there: see ``aside``."""
_MOST_WARNINGS = 100
"""Of device nodes that were left behind: a manifest need not name thousands."""
_COPY_BYTES = 64 << 20
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
    entries: Collection[Entry]
    contents: Mapping[str, Path]
    warnings: tuple[str, ...] = ()
    """What was left behind and why (device nodes), for the manifest's ``warnings``."""
    root: Root | None = None
    volume: str = ""


def list_tree(name: TreeName, root: Path) -> CapturedTree:
    """List what is under ``root``, a directory of ours; content stays where it is, so it must stay as it is until it is stored.

    Several names of one file are listed as several files.

    Raises:
        FailureError: ``tree-too-deep``.
        OSError: ``root`` cannot be read.
    """
    entries: list[Entry] = []
    walk = _Walk(entries.append, None, Tally(Bounds()), overlay=False, shared=False)
    with opened_root(root) as descriptor:
        walk.directory(descriptor, b"", 0)
    contents = {entry.path: root / os.fsdecode(bytes_of(entry.path)) for entry in entries if entry.size_bytes}
    return CapturedTree(name, tuple(entries), contents, tuple(walk.warnings))


def copy_tree(
    name: TreeName,
    root: Path,
    spool: Path,
    *,
    overlay: bool = False,
    shared: bool = False,
    volume: str = "",
    tally: Tally | None = None,
) -> CapturedTree:
    """Copy everything under ``root`` into ``spool``, which is made if need be. Several names stay one file, holes holes.

    ``overlay`` reads ``root`` as an overlay's upper directory. ``shared`` says that others than the frozen container may
    change ``root`` meanwhile: what vanishes is not taken, what shrinks is taken as it is. Otherwise nobody may.
    ``tally`` counts for all trees of a dump. The list of entries lies beside ``spool``.

    Raises:
        FailureError: ``disk-full``, ``tree-too-deep``, ``too-many-files``, ``files-too-large``, ``freeze-limit``, or ``overlay-unsupported`` for
            redirected or metacopied entries.
        OSError: something cannot be read or written.
    """
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with (
            EntryWriter(beside(spool)) as entries,
            opened_root(root) as descriptor,
        ):
            counted = tally or Tally(Bounds())
            copies = _Copies(spool, entries, counted, shared=shared)
            walk = _Walk(
                lambda entry: counted.list(entries.add(entry)), copies, counted, overlay=overlay, shared=shared
            )
            walk.directory(descriptor, b"", 0)
            own = root_of(descriptor)
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(spool), str(problem)) from problem
        raise
    listed = entries.entries()
    return CapturedTree(name, listed, NumberedFiles(listed, spool), tuple(walk.warnings), own, volume)


def root_of(place: Path | int) -> Root:
    """Tell what a directory itself is like, by its path or an open descriptor.

    Raises:
        OSError: there is none at ``place``.
    """
    if not isinstance(place, int):
        with opened_root(place) as descriptor:
            return root_of(descriptor)
    status = os.fstat(place)
    xattrs, _ = _xattrs(b"/proc/self/fd/%d" % place)
    return Root(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


class _Copies:
    """The copies of a tree's files, each named by the number of its entry."""

    def __init__(self, spool: Path, entries: EntryWriter, tally: Tally, *, shared: bool) -> None:
        self._spool = spool
        self._entries = entries
        self._tally = tally
        self._shared = shared

    def take(self, file: Pinned) -> int:
        """Copy a file that has a size; return how many bytes were copied."""
        return _copy_file(file, self._spool / str(self._entries.count), self._tally, may_shrink=self._shared)


class _Walk:
    """One pass over a tree, directories before what is in them, names in order of their bytes."""

    def __init__(
        self, add: Callable[[Entry], None], copies: _Copies | None, tally: Tally, *, overlay: bool, shared: bool
    ) -> None:
        self._add = add
        self._copies = copies
        self._tally = tally
        self._overlay = overlay
        self._shared = shared
        self._seen: dict[tuple[int, int], str] = {}
        self.warnings: list[str] = []

    def directory(self, descriptor: int, prefix: bytes, depth: int) -> None:
        refuse_too_deep(prefix, depth)
        for name in self._names(descriptor):
            if self._shared and depth == 0 and name == ASIDE:
                continue
            try:
                with Pinned(name, descriptor) as found:
                    path = prefix + name
                    if self._entry(found, path) and stat.S_ISDIR(found.status.st_mode):
                        child = found.open_directory()
                        try:
                            self.directory(child, path + b"/", depth + 1)
                        finally:
                            os.close(child)
            except OSError as problem:
                if not (self._shared and problem.errno in _VANISHED):
                    raise

    def _names(self, descriptor: int) -> list[bytes]:
        names: list[bytes] = []
        for name in names_in(descriptor):
            if len(names) >= self._tally.files_left:
                self._tally.refuse_more()
            names.append(name)
        return sorted(names)

    def _entry(self, found: Pinned, path: bytes) -> bool:
        """Record one entry; tell whether it was taken."""
        status = found.status
        self._tally.add(status)
        text = text_of(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._leave_behind(text, status)
            return False
        identity = (status.st_dev, status.st_ino)
        first = self._seen.get(identity)
        if first is not None:
            self._add(self._described(text, kind, status, hardlink=first))
            return True
        xattrs, marks = _xattrs(found.path)
        if self._overlay:
            self._check_marks(text, marks)
            if kind == "file" and "whiteout" in marks:
                self._add(Entry(text, "whiteout"))
                return False
        opaque = self._overlay and kind == "directory" and marks.get("opaque") == b"y"
        target = text_of(found.target()) if kind == "symlink" else None
        size = status.st_size if kind == "file" else 0
        if size and self._copies is not None:
            size = self._copies.take(found)
        self._add(self._described(text, kind, status, opaque=opaque, target=target, xattrs=xattrs, size=size))
        if status.st_nlink > 1 and kind != "directory" and self._copies is not None:
            self._seen[identity] = text
        return True

    def _leave_behind(self, text: str, status: os.stat_result) -> None:
        """Take no device node. What one has replaced in the image must not come back in its place, though."""
        is_whiteout = self._overlay and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        if not is_whiteout and len(self.warnings) < _MOST_WARNINGS:
            self.warnings.append(f"The device node {text} was left behind: snapshots hold no devices.")
        if self._overlay:
            self._add(Entry(text, "whiteout"))

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


def _xattrs(path: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read the attributes that travel, and overlayfs's own marks, by the path of a descriptor: it leads to that inode itself."""
    kept: dict[str, bytes] = {}
    marks: dict[str, bytes] = {}
    try:
        listed = os.listxattr(path)
    except OSError as problem:
        if problem.errno == errno.ENOTSUP:
            return kept, marks
        raise
    for attribute in listed:
        if attribute.startswith("user.") or attribute in KEPT_XATTRS:
            kept[text_of(os.fsencode(attribute))] = os.getxattr(path, attribute)
        elif attribute.startswith(_OVERLAY):
            marks[attribute.removeprefix(_OVERLAY)] = os.getxattr(path, attribute)
    return kept, marks


def _copy_file(file: Pinned, copy: Path, tally: Tally, *, may_shrink: bool) -> int:
    """Copy a file's first ``st_size`` bytes, or as many as there are; say how many."""
    size = file.status.st_size
    source = file.open_file()
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if file.status.st_blocks * 512 >= size:
                _copy_range(source, target, 0, size, tally)
            else:
                os.ftruncate(target, size)
                for start, stop in data_ranges(source, size):
                    _copy_range(source, target, start, stop, tally)
        except _ShrunkError:
            if not may_shrink:
                raise
            size = min(size, os.fstat(source).st_size)
            os.ftruncate(target, size)
        finally:
            os.close(target)
    finally:
        os.close(source)
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


def _copy_range(source: int, target: int, start: int, stop: int, tally: Tally) -> None:
    """Copy bytes within the kernel; between file systems, where it refuses, through a buffer."""
    in_kernel = True
    while start < stop:
        tally.look_at_clock()
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
