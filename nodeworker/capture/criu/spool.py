"""A capture on its way from the container to the store: one directory on this node that holds all of it.

The store reads trees as values, which a crash would lose; so the list of what lies here is written beside it, and the
next life of the worker goes on storing from the list.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from nodeworker.capture import filesystem
from nodeworker.capture.bounds import Bounds, Tally
from nodeworker.capture.criu import work_folders
from nodeworker.capture.trees import CapturedTree, copy_tree, list_tree
from nodeworker.capture.trees.entry_list import EntryFile, NumberedFiles
from nodeworker.domain.common_failures import spool_corrupt, spool_lost
from woodfrog.protocol import wire
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import DatabaseFile, Entry, HeldFile, Root, ThreadPlacement, TreeName

_MARGIN_BYTES: Final = 64 * 1024 * 1024
"""For page tables, descriptors and whatever the container allocates until it is frozen."""


class _ListedTree(msgspec.Struct, frozen=True):
    name: TreeName
    entries: tuple[Entry, ...] = ()
    contents: dict[str, str] = {}
    """Paths below the spool's folder, which may be moved."""
    warnings: tuple[str, ...] = ()
    root: Root | None = None
    volume: str = ""
    folder: str = ""
    """Of a tree that a container filled: where its copies lie below the spool's folder, with the list of its entries beside it."""
    count: int = 0
    """How many entries that list has."""


class Aside(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is recorded of processes beside their images."""

    held_files: tuple[HeldFile, ...] = ()
    threads: tuple[ThreadPlacement, ...] = ()
    databases: tuple[DatabaseFile, ...] = ()


class Spool:
    """The directory of one capture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.work = folder / "work"
        self._list = folder / "trees.json"
        self._aside = folder / "aside.json"

    def make(self) -> None:
        """Make the empty directory, for root only: it will hold a workload's memory."""
        self.folder.mkdir(parents=True, mode=0o700)
        self.images.mkdir(mode=0o700)
        self.work.mkdir(mode=0o700)

    def empty_images(self) -> None:
        """Remove what a dump that failed has left, so that another can be tried."""
        shutil.rmtree(self.images)
        self.images.mkdir(mode=0o700)

    def copy_files(
        self, upper: Path | None, shm: Path | None, volumes: Mapping[str, Path], bounds: Bounds
    ) -> list[CapturedTree]:
        """Copy the writable layer, the shared memory that lies outside, and volumes; the container must be frozen.

        Raises:
            FailureError: as ``copy_tree``.
            OSError: the same.
        """
        tally = Tally(bounds)
        trees = []
        if upper is not None:
            trees.append(copy_tree(TreeName.LAYER, upper, self.folder / "layer", overlay=True, tally=tally))
        if shm is not None:
            trees.append(copy_tree(TreeName.SHM, shm, self.folder / "shm", shared=True, tally=tally))
        for number, (volume, source) in enumerate(volumes.items()):
            spool = self.folder / f"volume-{number}"
            trees.append(copy_tree(TreeName.VOLUME, source, spool, shared=True, volume=volume, tally=tally))
        return trees

    def write_list(self, files: Iterable[CapturedTree]) -> list[CapturedTree]:
        """List CRIU's images, and write down where everything lies; the capture is whole when this returns."""
        trees = [list_tree(TreeName.PROCESSES, self.images), *files]
        self._list.write_bytes(wire.encode([self._listed(tree) for tree in trees]))
        return trees

    def write_aside(self, aside: Aside) -> None:
        """Keep what is recorded beside the images; to be called before :meth:`write_list`."""
        self._aside.write_bytes(wire.encode(aside))

    def read_aside(self) -> Aside:
        """Read what :meth:`write_aside` wrote; a capture of before has none.

        Raises:
            FailureError: ``spool-corrupt`` if it is not whole.
        """
        try:
            aside: Aside = wire.decode(self._aside.read_bytes(), Aside)
        except FileNotFoundError:
            return Aside()
        except (OSError, wire.MalformedMessageError) as problem:
            raise self._lost(problem) from problem
        return aside

    def _listed(self, tree: CapturedTree) -> _ListedTree:
        own = _ListedTree(tree.name, warnings=tree.warnings, root=tree.root, volume=tree.volume)
        if isinstance(tree.contents, NumberedFiles):
            folder = str(tree.contents.folder.relative_to(self.folder))
            return msgspec.structs.replace(own, folder=folder, count=len(tree.entries))
        contents = {path: str(at.relative_to(self.folder)) for path, at in tree.contents.items()}
        return msgspec.structs.replace(own, entries=tuple(tree.entries), contents=contents)

    def read_list(self) -> list[CapturedTree]:
        """Read what :meth:`write_list` wrote.

        Raises:
            FailureError: ``spool-lost`` if it is not there, ``spool-corrupt`` if it is not whole.
        """
        try:
            listed: list[_ListedTree] = wire.decode(self._list.read_bytes(), list[_ListedTree])
            return [self._read(tree) for tree in listed]
        except (OSError, wire.MalformedMessageError) as problem:
            raise self._lost(problem) from problem

    def _lost(self, problem: Exception) -> FailureError:
        if isinstance(problem, wire.MalformedMessageError):
            return spool_corrupt(f"the capture in {self.folder} is broken: {problem}")
        return spool_lost(f"the capture in {self.folder} is gone: {problem}")

    def _read(self, tree: _ListedTree) -> CapturedTree:
        entries: Collection[Entry] = tree.entries
        contents: Mapping[str, Path] = {path: self.folder / at for path, at in tree.contents.items()}
        if tree.folder:
            folder = self.folder / tree.folder
            entries = EntryFile.beside(folder, tree.count)
            contents = NumberedFiles(entries, folder)
        return CapturedTree(tree.name, entries, contents, tree.warnings, tree.root, tree.volume)

    def link_into(self, folder: Path) -> Spool:
        """Give all that was captured other names in ``folder``, which is made: it stays there even if this spool is removed.

        Raises:
            OSError: a file is gone, or cannot be linked.
        """
        shutil.copytree(self.folder, folder, copy_function=os.link, ignore=lambda _, __: {self.work.name})
        return Spool(folder)

    def sync(self) -> None:
        """Return when all of it survives a power cut: of the whole file system, which is quicker than file by file.

        Raises:
            OSError: it cannot be synced.
        """
        filesystem.sync(self.folder)

    def remove(self) -> None:
        """Remove it with all that it holds."""
        work_folders.remove(self.folder)


def raw_bytes(trees: Iterable[CapturedTree]) -> int:
    """Add up the sizes of all files, a file with several names once."""
    return sum(entry.size_bytes for tree in trees for entry in tree.entries if entry.hardlink is None)


def dump_bytes(pids: Iterable[int], copied_bytes: int) -> int:
    """Say how much room a dump needs, about, beside ``copied_bytes`` of files."""
    return sum(_memory_bytes(pid) for pid in pids) + copied_bytes + _MARGIN_BYTES


def _memory_bytes(pid: int) -> int:
    """What CRIU writes of a process: anonymous pages each time, shared ones by their share, swapped ones as well."""
    wanted = {b"Anonymous:", b"Pss_Shmem:", b"Swap:"}
    with suppress(OSError):
        lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines())
        return sum(int(words[1]) * 1024 for words in lines if words[0] in wanted)
    return 0
