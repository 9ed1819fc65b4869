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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from nodeworker.capture.trees.tree_reader import KEPT_XATTRS
from nodeworker.domain.common_failures import corrupt, disk_full, is_disk_full
from nodeworker.domain.filename_codec import bytes_of
from woodfrog.protocol.manifest import Entry, Root, Tree, entry_path_problem

ReadInto = Callable[[Entry, int], None]
"""Writes the content of a file entry into an open, empty file; ``SnapshotStore.reader`` gives one."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MakesRoom(Protocol):
    """What ``aside.Aside`` is: decides about what is there already, and moves it where it can be brought back from."""

    def stays(self, parent: int, name: bytes, entry: Entry) -> bool:
        """Say whether what is there is left alone."""

    def clear(self, top: int, parent: int, name: bytes, path: str) -> None:
        """Free a name."""

    def describes(self, parent: int, name: bytes, path: str) -> bool:
        """Note what a directory is like; say whether it may be changed."""


def apply_tree(tree: Tree, root: Path, read_into: ReadInto, aside: MakesRoom | None = None) -> None:
    """Make everything in ``tree`` under ``root``, an existing directory: the merged view of an overlay, or a volume.

    A whiteout removes what is there, an opaque directory is emptied first. Without ``aside``, nothing may use ``root``
    meanwhile. Applying can stop half-way: whoever calls undoes it (``overlay.undo``, ``aside.put_back``).

    Raises:
        FailureError: ``snapshot-corrupt`` for an entry that may not be; ``disk-full``; what ``read_into`` raises.
        OSError: something cannot be made.
    """
    try:
        with Places(root) as places:
            _apply(tree, places, read_into, aside)
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(root), str(problem)) from problem
        raise


class Places:
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


def _apply(tree: Tree, places: Places, read_into: ReadInto, aside: MakesRoom | None) -> None:
    made: dict[str, str] = {}
    directories: list[Entry] = []
    described = aside is None or aside.describes(places.root, b".", "")
    for entry in tree.entries:
        parent, name = places.parent_of(entry.path)
        if entry.kind == "directory":
            if _make_directory(places, parent, name, entry, aside):
                directories.append(entry)
        elif aside is None or not aside.stays(parent, name, entry):
            # A path that is replaced may be one that is held open as a parent; it is no directory from now on.
            places.leave(entry.path.count("/"))
            _clear(places, parent, name, entry, aside)
            _make(places, parent, name, entry, read_into, made)
        made[entry.path] = entry.kind
    _describe_all(reversed(directories), places)  # last, because whatever is made in a directory changes its time
    if tree.root is not None and described:
        places.leave(0)
        describe(places.root, tree.root)


def _describe_all(directories: Iterable[Entry], places: Places) -> None:
    for entry in directories:
        parent, name = places.parent_of(entry.path)
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as problem:
            raise corrupt(f"The directory {entry.path!r} occurs as something else, too.") from problem
        try:
            describe(descriptor, entry)
        finally:
            os.close(descriptor)


def _clear(places: Places, parent: int, name: bytes, entry: Entry, aside: MakesRoom | None) -> None:
    if aside is not None:
        aside.clear(places.root, parent, name, entry.path)
    else:
        remove(parent, name)


def remove(parent: int, name: bytes) -> None:
    """Remove what is at a name below an open directory, if anything is."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(name, dir_fd=parent)  # by descriptors, following nothing (shutil.rmtree.avoids_symlink_attacks)
    else:
        os.unlink(name, dir_fd=parent)


def _make_directory(places: Places, parent: int, name: bytes, entry: Entry, aside: MakesRoom | None) -> bool:
    """Make sure that there is a directory; say whether it shall be like the one in the tree."""
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if aside is not None:
                return aside.describes(parent, name, entry.path)
            if entry.opaque:
                with _held(name, _DIRECTORY, parent) as descriptor:
                    for child in os.listdir(descriptor):  # noqa: PTH208 (by descriptor, which pathlib cannot)
                        remove(descriptor, os.fsencode(child))
            return True
    _clear(places, parent, name, entry, aside)
    os.mkdir(name, 0o700, dir_fd=parent)
    return True


def _make(places: Places, parent: int, name: bytes, entry: Entry, read_into: ReadInto, made: Mapping[str, str]) -> None:
    if entry.hardlink is not None:
        if made.get(entry.hardlink) != entry.kind:
            raise corrupt(f"The entry {entry.path!r} is another name of something that is not in its tree.")
        _link(places, entry)
    elif entry.kind != "whiteout":
        _make_new(parent, name, entry, read_into)


def _make_new(parent: int, name: bytes, entry: Entry, read_into: ReadInto) -> None:
    if entry.kind == "file":
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.size_bytes:
                read_into(entry, descriptor)
            describe(descriptor, entry)
        finally:
            os.close(descriptor)
    elif entry.kind == "symlink" and entry.target:
        os.symlink(bytes_of(entry.target), name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
    elif entry.kind in {"fifo", "socket"}:
        os.mknod(name, 0o600 | (stat.S_IFIFO if entry.kind == "fifo" else stat.S_IFSOCK), dir_fd=parent)
        with _held(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, parent) as descriptor:
            describe(f"/proc/self/fd/{descriptor}", entry)
    else:
        raise corrupt(f"The entry {entry.path!r} is of the kind {entry.kind!r}, which is never made.")


def _link(places: Places, entry: Entry) -> None:
    assert entry.hardlink is not None
    parent, name = places.parent_of(entry.hardlink)
    with _held(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, parent) as source:
        # linkat(2) takes the file that the descriptor holds, whatever its path has become.
        parent, name = places.parent_of(entry.path)
        os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=parent, follow_symlinks=True)


def describe(file: int | str, entry: Entry | Root) -> None:
    """Make a file what an entry says: give owner, mode, attributes and time, in this order: chown(2) clears setuid and file capabilities."""
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
