"""The manifest: what a snapshot is made of, written last, so that its presence is the commit.

A capture consists of *trees* (the CRIU images, the writable layer, /dev/shm, the pod's volumes). Every tree is a list of entries; the
content of regular files is cut into chunks of ``chunk_bytes``, each named by the BLAKE3 digest of its raw bytes and kept,
compressed, somewhere in a pack. A reader holds the manifest's own digest from the event log, so every byte that it
restores is checked against the log. Nothing in a manifest is trusted before ``nodeworker.store`` has checked it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId

MANIFEST_VERSION = 1
"""What a reader must know to restore faithfully. A tree, a kind of entry, or a field that may not be left out raises it
(docs/decisions/0031-a-newer-manifest-is-not-a-broken-one.md)."""
CONFIG_DATA = "..data"
"""The link that the kubelet moves when a ConfigMap, Secret or token changes."""
HOLE = -1
"""In :attr:`Entry.chunks`: ``chunk_bytes`` of zeros (fewer at the end of a file), stored nowhere."""


class TreeName(StrEnum):
    """The kinds of tree that a capture may hold."""

    PROCESSES = "processes"
    """CRIU's image files."""
    LAYER = "layer"
    """The overlay's upper directory: what the container changed in its root filesystem."""
    SHM = "shm"
    """/dev/shm, where it is a bind mount from outside (as in a pod); a tmpfs of the container's own is in CRIU's images."""
    VOLUME = "volume"
    """An emptyDir of the pod; there is a tree for each, told apart by :attr:`Tree.volume`."""
    CONFIG = "config"
    """Of a ConfigMap, Secret or token, by where it is mounted: a link to :data:`CONFIG_DATA`, and nothing else."""


EntryKind = Literal["directory", "file", "symlink", "fifo", "socket", "whiteout"]


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One run of bytes and where it lies."""

    digest: str
    """BLAKE3 of the raw bytes, 64 hex digits."""
    pack: int
    """Index into :attr:`Manifest.packs`."""
    offset_bytes: int
    stored_bytes: int
    """Length in the pack; equal to ``raw_bytes`` means kept as it is, anything less is one zstd frame."""
    raw_bytes: int


class Pack(msgspec.Struct, frozen=True):
    """One object of the store, full of chunks; named by the BLAKE3 digest of its bytes."""

    digest: str
    bytes: int


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a tree. ``path`` is relative, ``/``-separated and never empty, absolute or containing ``.`` or ``..``.

    A ``whiteout`` says that the path was deleted from the layer below; ``opaque`` that a directory hides everything below
    it. ``hardlink`` names an earlier entry of the same tree that this path is another name of.
    """

    path: str
    kind: EntryKind
    mode: int = 0
    """Permission bits with setuid, setgid and sticky: 0 to 0o7777."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size_bytes: int = 0
    target: str | None = None
    hardlink: str | None = None
    opaque: bool = False
    xattrs: dict[str, bytes] = {}
    chunks: tuple[int, ...] = ()


class Root(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tree's own directory is like: a container may change the mode of ``/`` as of any other directory."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[str, bytes] = {}


class Tree(msgspec.Struct, frozen=True, omit_defaults=True):
    """The entries of one tree, parents before children. CRIU's images need no ``root``."""

    name: TreeName
    entries: tuple[Entry, ...]
    root: Root | None = None
    volume: str = ""
    """Of a volume: its name in the pod; or where it is mounted, with a leading ``/``, if only a part of it is (subPath)."""


class EnvironmentMarks(msgspec.Struct, frozen=True):
    """By what the variables of a process are known again, without their values (:mod:`nodeworker.domain.changed_environment`)."""

    salt: str
    """Random, in hex; used for these marks alone."""
    digests: dict[str, str]
    """By the variable's name."""


class HeldFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that stays outside of the snapshot and that its processes hold open or have mapped, as it was at the dump.

    Which file it is say where it is mounted and its path there. Its inode and device do not: on another node, or in another
    mount of the same share, they are others.
    """

    mount: str
    """Where its mount is in the container."""
    path: str
    """Below that, without a leading ``/``; empty if the file is mounted itself."""
    size_bytes: int
    mtime_ns: int
    appended: bool = False
    """Whether whoever holds it only appends to it, as to a log."""


class ThreadPlacement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a thread had asked for of the machine and CRIU does not give back."""

    thread: int
    """As the container calls it."""
    cpus: tuple[int, ...] = ()
    """On which processors it may run; empty if on all of the container's."""
    io_priority: int = 0
    """Class and level, as ioprio_set(2) takes them."""


class DatabaseFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A SQLite database that a process has open, and by which SQLite knows the file; a restored one has other numbers."""

    process: int
    """As the container calls it."""
    descriptor: int
    device: int
    inode: int


class Outline(msgspec.Struct, frozen=True):
    """As much of a manifest as every version has: enough to know whether the rest can be read."""

    version: int


class Manifest(msgspec.Struct, frozen=True):
    """Everything about one snapshot. JSON in the store."""

    version: int
    snapshot_id: SnapshotId
    key: CheckpointKey
    incarnation: IncarnationNumber
    taken_at: datetime
    node_facts: NodeFacts
    container_facts: ContainerFacts
    stopped_pids: tuple[int, ...]
    """Pids, as the container sees them, that were stopped by job control at the dump and must stay so after a restore."""
    chunk_bytes: int
    trees: tuple[Tree, ...]
    chunks: tuple[Chunk, ...]
    packs: tuple[Pack, ...]
    warnings: tuple[str, ...] = ()
    environment: EnvironmentMarks | None = None
    """Of the variables that the processes were started with; unknown in snapshots of before."""
    held_files: tuple[HeldFile, ...] = ()
    """Files on volumes that do not travel; unknown in snapshots of before."""
    threads: tuple[ThreadPlacement, ...] = ()
    """Those whose processors or I/O priority are their own; unknown in snapshots of before."""
    databases: tuple[DatabaseFile, ...] = ()
    """SQLite's; unknown in snapshots of before."""
    generation: int = 0
    """How often these processes had been restored."""


def entry_path_problem(path: str) -> str | None:
    """Say why a path may not appear in a tree, or ``None``: hostile manifests try to leave their root."""
    if not path or path.startswith("/"):
        return "is empty or absolute"
    if "\0" in path:
        return "contains a NUL"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "has an empty, '.' or '..' component"
    return None
