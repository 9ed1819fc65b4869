"""Directory trees as values: what a dump takes of the file system, and how a restore puts it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from protocol.manifest import Entry, Tree, TreeName

ReadInto = Callable[[Entry, int], None]
"""Writes the content of a file entry into an open, empty file descriptor; ``SnapshotStore.reader`` makes one."""


@dataclass(frozen=True, slots=True)
class CapturedTree:
    """A tree as it lies on this node; ``contents`` says in which local file the bytes of a file entry are."""

    name: TreeName
    entries: tuple[Entry, ...]
    contents: Mapping[str, Path]
    warnings: tuple[str, ...] = field(default=())
    """What was left behind and why (device nodes), for the manifest's ``warnings``."""


def list_tree(name: TreeName, root: Path) -> CapturedTree:
    """List the files and directories under ``root``; their content stays where it is."""
    raise NotImplementedError


def copy_tree(name: TreeName, root: Path, spool: Path, *, overlay: bool) -> CapturedTree:
    """Copy everything under ``root`` into ``spool``; ``overlay`` reads ``root`` as an overlay's upper directory."""
    raise NotImplementedError


def apply_tree(tree: Tree, root: Path, read_into: ReadInto) -> None:
    """Make everything in ``tree`` under ``root``, never outside of it."""
    raise NotImplementedError
