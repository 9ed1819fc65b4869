"""Putting a tree back, as root, over a file system that its owner may have laid out as a trap.

Every step works on a single name below a directory that is held open, and that was itself reached name by name from the root
without following a symbolic link; so neither a manifest nor links that lie under the root can lead anywhere else.
A name is removed before anything else is made there: nothing is ever written through what was there before.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from nodeworker.capture.copying import KEPT_XATTRS, root_of
from nodeworker.domain.names import bytes_of
from nodeworker.domain.problems import corrupt, disk_full, is_disk_full
from protocol.manifest import Entry, Root, Tree, TreeName, entry_path_problem

ReadInto = Callable[[Entry, int], None]
"""Writes the content of a file entry into an open, empty file; ``SnapshotStore.reader`` gives one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def apply_tree(tree: Tree, root: Path, read_into: ReadInto) -> None:
    """Make everything in ``tree`` under ``root``, an existing directory: the merged view of an overlay, or a volume.

    A whiteout removes what is there, an opaque directory is emptied first. Nothing may use ``root`` meanwhile. Applying can
    stop half-way: whoever calls undoes it (``overlay.undo``) or gives ``root`` up.

    Raises:
        FailureError: ``snapshot-corrupt`` for an entry that may not be; ``disk-full``; what ``read_into`` raises.
        OSError: something cannot be made.
    """
    try:
        with _Places(root) as places:
            _apply(tree, places, read_into)
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(root), str(problem)) from problem
        raise


def inverse_of(tree: Tree, place: Path) -> Tree:
    """Make the tree that will take ``tree`` out of ``place`` again, before it is put there.

    A layer's entries are taken out by ``overlay.undo``; what is left to put back is what ``place`` itself was like.

    Raises:
        OSError: ``place`` cannot be read.
    """
    tops = [] if tree.name is TreeName.LAYER else [entry.path for entry in tree.entries if "/" not in entry.path]
    return Tree(tree.name, tuple(Entry(path, "whiteout") for path in tops), root_of(place))


class _Places:
    """The directories from the root down to the one in use, held open; entries come in the order of a walk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[bytes] = []
        self._open: list[int] = []

    def __enter__(self) -> Self:
        self._open.append(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.pop())

    @property
    def root(self) -> int:
        """The tree's own directory."""
        return self._open[0]

    def parent_of(self, path: str) -> tuple[int, bytes]:
        """Open the directory that ``path`` lies in, and give it with the last name.

        Raises:
            FailureError: ``snapshot-corrupt`` if the path may not be or does not lead through directories of the root.
        """
        *parents, name = _names_of(path)
        common = 0
        while common < min(len(parents), len(self._names)) and parents[common] == self._names[common]:
            common += 1
        self.leave(common)
        for parent in parents[common:]:
            try:
                self._open.append(os.open(parent, _DIRECTORY, dir_fd=self._open[-1]))
            except OSError as problem:
                if problem.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    raise corrupt(f"The entry {path!r} does not lie in a directory of its tree.") from problem
                raise
            self._names.append(parent)
        return self._open[-1], name

    def leave(self, depth: int) -> None:
        """Close what is below ``depth`` directories."""
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._open.pop())


def _names_of(path: str) -> list[bytes]:
    problem = entry_path_problem(path)
    if problem is None:
        try:
            raw = bytes_of(path)
        except ValueError:
            problem = "is not proper text"
        else:  # the bytes are what the kernel will see, so they are what counts
            problem = entry_path_problem(raw.decode("latin-1"))
    if problem is not None:
        raise corrupt(f"The entry {path[:200]!r} {problem}.")
    return raw.split(b"/")


def _apply(tree: Tree, places: _Places, read_into: ReadInto) -> None:
    made: dict[str, str] = {}
    directories: list[Entry] = []
    for entry in tree.entries:
        parent, name = places.parent_of(entry.path)
        if entry.kind == "directory":
            _make_directory(parent, name, entry)
            directories.append(entry)
        else:
            # A path that is replaced may be one that is held open as a parent; it is no directory from now on.
            places.leave(entry.path.count("/"))
            _remove(parent, name)
            if entry.hardlink is not None:
                if made.get(entry.hardlink) != entry.kind:
                    raise corrupt(f"The entry {entry.path!r} is another name of something that is not in its tree.")
                _link(places, entry)
            elif entry.kind != "whiteout":
                _make(parent, name, entry, read_into)
        made[entry.path] = entry.kind
    for entry in reversed(directories):  # last, because whatever is made in a directory changes its time
        parent, name = places.parent_of(entry.path)
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as problem:
            raise corrupt(f"The directory {entry.path!r} occurs as something else, too.") from problem
        try:
            _describe(descriptor, entry)
        finally:
            os.close(descriptor)
    if tree.root is not None:
        places.leave(0)
        _describe(places.root, tree.root)


def _remove(parent: int, name: bytes) -> None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(name, dir_fd=parent)  # by descriptors, following nothing (shutil.rmtree.avoids_symlink_attacks)
    else:
        os.unlink(name, dir_fd=parent)


def _make_directory(parent: int, name: bytes, entry: Entry) -> None:
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if entry.opaque:
                with _held(name, _DIRECTORY, parent) as descriptor:
                    for child in os.listdir(descriptor):  # noqa: PTH208 (by descriptor, which pathlib cannot)
                        _remove(descriptor, os.fsencode(child))
            return
        os.unlink(name, dir_fd=parent)
    os.mkdir(name, 0o700, dir_fd=parent)


def _make(parent: int, name: bytes, entry: Entry, read_into: ReadInto) -> None:
    if entry.kind == "file":
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.size_bytes:
                read_into(entry, descriptor)
            _describe(descriptor, entry)
        finally:
            os.close(descriptor)
    elif entry.kind == "symlink" and entry.target:
        os.symlink(bytes_of(entry.target), name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
    elif entry.kind in {"fifo", "socket"}:
        os.mknod(name, 0o600 | (stat.S_IFIFO if entry.kind == "fifo" else stat.S_IFSOCK), dir_fd=parent)
        with _held(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, parent) as descriptor:
            _describe(f"/proc/self/fd/{descriptor}", entry)
    else:
        raise corrupt(f"The entry {entry.path!r} is of the kind {entry.kind!r}, which is never made.")


def _link(places: _Places, entry: Entry) -> None:
    assert entry.hardlink is not None
    parent, name = places.parent_of(entry.hardlink)
    with _held(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, parent) as source:
        # linkat(2) takes the file that the descriptor holds, whatever its path has become.
        parent, name = places.parent_of(entry.path)
        os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=parent, follow_symlinks=True)


def _describe(file: int | str, entry: Entry | Root) -> None:
    """Give owner, mode, attributes and time, in this order: chown(2) clears setuid and file capabilities."""
    os.chown(file, entry.uid, entry.gid)
    os.chmod(file, entry.mode & 0o7777)  # noqa: PTH101 (by descriptor)
    present = {name for name in os.listxattr(file) if name.startswith("user.") or name in KEPT_XATTRS}
    wanted = {os.fsdecode(bytes_of(name)): value for name, value in entry.xattrs.items()}
    for name in sorted(present - wanted.keys()):
        os.removexattr(file, name)
    for name, value in wanted.items():
        if not (name.startswith("user.") or name in KEPT_XATTRS):
            where = f"The entry {entry.path!r}" if isinstance(entry, Entry) else "The tree"
            raise corrupt(f"{where} has the extended attribute {name[:80]!r}, which is not taken.")
        os.setxattr(file, name, value)
    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))


@contextmanager
def _held(name: bytes, flags: int, parent: int) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
