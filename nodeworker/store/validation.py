"""What a manifest must fulfil before anything in it is believed.

Its digest proves that it is the manifest which a worker reported; it does not prove that this worker was honest or whole. A
restore runs as root, so a manifest is read like a message from an enemy: every path, number and reference is checked here,
once, and what follows may rely on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nodeworker.domain.filename_codec import LIMIT_PATH_BYTES, bytes_of
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.manifest import (
    CONFIG_DATA,
    HOLE,
    MANIFEST_VERSION,
    Chunk,
    Entry,
    HeldFile,
    Manifest,
    Pack,
    Root,
    Tree,
    TreeName,
    entry_path_problem,
)
from woodfrog.protocol.wire import shortened, time_problem

LIMIT_FILE_BYTES = 16 << 40
"""ext4's largest file."""
LIMIT_TREE_BYTES = 64 << 40
LIMIT_PACK_BYTES = 5 << 30
"""S3's largest single upload; this worker writes far smaller packs."""
LIMIT_CHUNK_BYTES = 64 << 20
_LEAST_CHUNK_BYTES = 4 << 10
_NAME_MAX = 255
_TARGET_MAX = 4095
_XATTR_NAME_MAX = 255
_XATTR_VALUE_MAX = 64 << 10
_ID_MAX = (1 << 32) - 2
_TIME_LIMIT_NS = 1 << 63
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STAMP = re.compile(r"\.\.[0-9_.]+", re.ASCII)
_XATTRS = re.compile(r"user\..+|security\.capability|system\.posix_acl_(?:access|default)", re.DOTALL)


def problem_of(manifest: Manifest, key: CheckpointKey, snapshot_id: SnapshotId) -> str | None:
    """Say what is wrong with a manifest that was read as that of ``snapshot_id`` under ``key``; ``None`` if nothing is.

    What it says is short, whatever the manifest quotes.
    """
    problem = next(_problems(manifest, key, snapshot_id), None)
    return None if problem is None else shortened(problem)


def _problems(manifest: Manifest, key: CheckpointKey, snapshot_id: SnapshotId) -> Iterator[str]:
    if not 1 <= manifest.version <= MANIFEST_VERSION:
        yield f"it has version {manifest.version}, this worker reads versions up to {MANIFEST_VERSION}"
    if manifest.key != key or manifest.snapshot_id != snapshot_id:
        yield f"it is that of snapshot {manifest.snapshot_id} of {manifest.key}"
    yield from _amount_problems(manifest)
    for index, pack in enumerate(manifest.packs):
        yield from (f"pack {index} {problem}" for problem in _pack_problems(pack))
    for index, chunk in enumerate(manifest.chunks):
        yield from (f"chunk {index} {problem}" for problem in _chunk_problems(chunk, manifest))
    names = [(tree.name, tree.volume) for tree in manifest.trees]
    if len(set(names)) != len(names):
        yield "a tree occurs twice"
    if any(bool(tree.volume) != (tree.name in {TreeName.VOLUME, TreeName.CONFIG}) for tree in manifest.trees):
        yield "a volume has no name, or something else has one"
    for held in manifest.held_files:
        yield from (f"the file {held.path[:200]!r} outside {problem}" for problem in _held_problems(held))
    for tree in manifest.trees:
        yield from (f"in tree {tree.name}, {problem}" for problem in _tree_problems(tree, manifest))


def _amount_problems(manifest: Manifest) -> Iterator[str]:
    size = manifest.chunk_bytes
    if (problem := time_problem(manifest.taken_at)) is not None:
        yield f"it was taken at {problem}"
    if not _LEAST_CHUNK_BYTES <= size <= LIMIT_CHUNK_BYTES or size & (size - 1):
        yield f"chunks of {size} bytes are out of bounds"


def _pack_problems(pack: Pack) -> Iterator[str]:
    if not _DIGEST.fullmatch(pack.digest):
        yield "has no proper digest"
    if not 0 < pack.bytes <= LIMIT_PACK_BYTES:
        yield f"has {pack.bytes} bytes"


def _chunk_problems(chunk: Chunk, manifest: Manifest) -> Iterator[str]:
    if not _DIGEST.fullmatch(chunk.digest):
        yield "has no proper digest"
    if not 0 <= chunk.pack < len(manifest.packs):
        yield f"lies in pack {chunk.pack}, which does not exist"
    elif not 0 <= chunk.offset_bytes <= manifest.packs[chunk.pack].bytes - chunk.stored_bytes:
        yield "lies outside of its pack"
    if not 0 < chunk.stored_bytes <= chunk.raw_bytes <= manifest.chunk_bytes:
        yield f"has {chunk.stored_bytes} stored and {chunk.raw_bytes} raw bytes"


def _held_problems(held: HeldFile) -> Iterator[str]:
    if not held.mount.startswith("/") or (held.path and entry_path_problem(held.path) is not None):
        yield "has an impossible place"
    if held.size_bytes < 0:
        yield f"has {held.size_bytes} bytes"


def _tree_problems(tree: Tree, manifest: Manifest) -> Iterator[str]:
    kinds: dict[str, str] = {}
    total = 0
    if tree.root is not None:
        yield from (f"its own directory {problem}" for problem in _attribute_problems(tree.root))
    for entry in tree.entries:
        shown = repr(entry.path if len(entry.path) <= 200 else f"{entry.path[:200]}…")
        total += entry.size_bytes
        for problem in (
            *_path_problems(entry, kinds),
            *_attribute_problems(entry),
            *_kind_problems(entry, tree, kinds),
        ):
            yield f"{shown} {problem}"
        if entry.kind == "file" and entry.hardlink is None:
            yield from (f"{shown} {problem}" for problem in _content_problems(entry, manifest))
        kinds[entry.path] = entry.kind
    if total > LIMIT_TREE_BYTES:
        yield f"files of {total} bytes are too much"


def _path_problems(entry: Entry, kinds: dict[str, str]) -> Iterator[str]:
    problem = entry_path_problem(entry.path)
    if problem is None:
        try:
            raw = bytes_of(entry.path)
        except ValueError:
            problem = "is not proper text"
        else:  # the bytes are what the kernel will see, so they are what counts
            problem = entry_path_problem(raw.decode("latin-1"))
            if len(raw) > LIMIT_PATH_BYTES or max(map(len, raw.split(b"/"))) > _NAME_MAX:
                problem = "is too long"
    if problem is not None:
        yield problem
    if entry.path in kinds:
        yield "occurs twice"
    parent = entry.path.rpartition("/")[0]
    if parent and kinds.get(parent) != "directory":
        yield "lies in no directory of the tree"


def _attribute_problems(entry: Entry | Root) -> Iterator[str]:
    if not 0 <= entry.mode <= 0o7777:
        yield f"has mode {entry.mode:#o}"
    if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
        yield f"belongs to {entry.uid}:{entry.gid}"
    if not -_TIME_LIMIT_NS <= entry.mtime_ns < _TIME_LIMIT_NS:
        yield "has an impossible time"
    for name, value in entry.xattrs.items():
        if not _XATTRS.fullmatch(name) or "\0" in name or len(name) > _XATTR_NAME_MAX or len(value) > _XATTR_VALUE_MAX:
            yield f"has the extended attribute {name[:80]!r}, which is not taken from a snapshot"


def _kind_problems(entry: Entry, tree: Tree, kinds: dict[str, str]) -> Iterator[str]:
    if tree.name is TreeName.PROCESSES and entry.kind not in {"file", "directory"}:
        yield f"is a {entry.kind}, where only files and directories may be"
    if tree.name is TreeName.CONFIG and not (entry.target == CONFIG_DATA and _STAMP.fullmatch(entry.path)):
        yield "is not a link to the new pod's files"
    if entry.kind == "whiteout" and tree.name is not TreeName.LAYER:
        yield "is a whiteout outside of the layer"
    if entry.opaque and (entry.kind != "directory" or tree.name is not TreeName.LAYER):
        yield "is opaque, which only a directory of the layer may be"
    if (entry.target is not None) != (entry.kind == "symlink" and entry.hardlink is None):
        yield "has a target and is not a symlink, or the reverse"
    if entry.target is not None and (not entry.target or "\0" in entry.target or len(entry.target) > _TARGET_MAX):
        yield "has an impossible target"
    if entry.hardlink is not None and (
        entry.kind in {"directory", "whiteout"} or kinds.get(entry.hardlink) != entry.kind
    ):
        yield f"is a {entry.kind} and another name of {entry.hardlink[:200]!r}, which is not an earlier {entry.kind}"
    if (entry.kind != "file" or entry.hardlink is not None) and (entry.chunks or entry.size_bytes):
        yield "has content and is not a file"


def _content_problems(entry: Entry, manifest: Manifest) -> Iterator[str]:
    size = entry.size_bytes
    if not 0 <= size <= LIMIT_FILE_BYTES:
        yield f"has {size} bytes"
        return
    if len(entry.chunks) != -(-size // manifest.chunk_bytes):
        yield f"has {size} bytes and {len(entry.chunks)} chunks"
        return
    last = len(entry.chunks) - 1
    for position, index in enumerate(entry.chunks):
        expected = manifest.chunk_bytes if position < last else size - last * manifest.chunk_bytes
        if index != HOLE and not (0 <= index < len(manifest.chunks) and manifest.chunks[index].raw_bytes == expected):
            yield f"has no proper chunk at {position * manifest.chunk_bytes}"
