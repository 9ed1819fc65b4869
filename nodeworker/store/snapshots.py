"""Snapshots in an object store: valid means proven.

Packs are written, made durable and read back before the manifest that names them is written, so a manifest never speaks of
bytes that are not there; the manifest is read back before its digest is handed out, so a digest in the event log never
speaks of a manifest that is not there. A process that is killed at any point leaves either a valid snapshot or objects that
nothing refers to, which the next attempt for the same snapshot, or :meth:`SnapshotStore.discard`, removes.

Objects lie under ``<cluster>/<namespace>/<id>/<snapshot>/``: ``<digest>.pack`` and ``manifest.json``; in an encrypted store
where ``sealing.py`` puts them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from blake3 import blake3

from nodeworker.domain.common_failures import corrupt, format_unknown
from nodeworker.store.chunks import CHUNK_BYTES
from nodeworker.store.encryption import SealedObjects
from nodeworker.store.encryption_keys import KeyRing
from nodeworker.store.identity import StoreIdentity
from nodeworker.store.object_store import open_objects
from nodeworker.store.pack_reader import Unpacker, fetch_files
from nodeworker.store.pack_writer import Packer, pack_name, prove
from nodeworker.store.validation import problem_of
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import SNAPSHOT_MISSING, Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId, check_id
from woodfrog.protocol.manifest import (
    HOLE,
    MANIFEST_VERSION,
    Chunk,
    DatabaseFile,
    Entry,
    EnvironmentMarks,
    HeldFile,
    Manifest,
    Outline,
    Pack,
    Root,
    ThreadPlacement,
    Tree,
    TreeName,
)
from woodfrog.protocol.wire import MalformedMessageError, decode, encode
from woodfrog.service.data_keys import Recipient
from woodfrog.service.faultpoints import reach

MANIFEST_NAME = "manifest.json"
LIMIT_MANIFEST_BYTES = 512 << 20
"""The largest manifest that this worker writes and reads. One of some 100 kB a GiB reaches this at 5 TiB; each file adds some 200
bytes."""


class TreeToStore(Protocol):
    """What ``nodeworker.capture.trees.CapturedTree`` is; the store and the capture do not know each other."""

    @property
    def name(self) -> TreeName:
        """Which tree it is."""

    @property
    def entries(self) -> Collection[Entry]:
        """Parents before children, files without their chunks."""

    @property
    def contents(self) -> Mapping[str, Path]:
        """In which local file the bytes of an entry's path are."""

    @property
    def root(self) -> Root | None:
        """What its own directory is like, where that matters."""

    @property
    def volume(self) -> str:
        """Which volume it is, if it is one."""


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """Everything in a manifest but the trees and where their bytes lie."""

    snapshot_id: SnapshotId
    key: CheckpointKey
    incarnation: IncarnationNumber
    taken_at: datetime
    node_facts: NodeFacts
    container_facts: ContainerFacts
    stopped_pids: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: EnvironmentMarks | None = None
    held_files: tuple[HeldFile, ...] = ()
    threads: tuple[ThreadPlacement, ...] = ()
    databases: tuple[DatabaseFile, ...] = ()
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot that is valid: durable, read back and checked."""

    manifest_digest: str
    raw_bytes: int
    """Sum of the sizes of all files, holes included."""
    stored_bytes: int
    """What the snapshot occupies in the store, manifest included."""
    store: str | None = None
    """Identity of the store."""


class SnapshotStore:
    """Snapshots at one URL. Every method blocks: call it from a thread. One instance may be shared by threads.

    A key or snapshot id that may not be one raises ``woodfrog.protocol.ids.InvalidIdError`` everywhere.
    """

    def __init__(
        self,
        url: str,
        *,
        workers: int | None = None,
        keys: KeyRing | None = None,
        recipient: Recipient | None = None,
        remembered: Path | None = None,
        limit_manifest_bytes: int = LIMIT_MANIFEST_BYTES,
    ) -> None:
        """Open a store; ``workers`` is the number of threads that each put and fetch uses, by default one a core.

        With ``keys``, what is put is encrypted; what is fetched may be or not. With a ``recipient`` as well, each snapshot has a key of its own. In the folder ``remembered`` this node keeps which
        store was at the URL. No manifest that is larger than ``limit_manifest_bytes`` is written or read.

        Raises:
            ValueError: the URL names no store.
        """
        objects = open_objects(url)
        self.identity = StoreIdentity(objects, url, remembered)
        self._objects = SealedObjects(objects, keys or KeyRing(), recipient)
        self._workers = workers or len(os.sched_getaffinity(0))
        self._limit_manifest_bytes = limit_manifest_bytes

    def put(
        self,
        header: ManifestHeader,
        trees: Sequence[TreeToStore],
        check: Callable[[Manifest], None] = lambda _: None,
    ) -> Stored:
        """Store a snapshot and prove it. Putting the same snapshot again, after a crash say, replaces what is there.

        ``check`` is given the manifest before it is written, when nothing is valid yet, and refuses it by raising.

        Raises:
            FailureError: ``disk-full``; ``snapshot-corrupt`` or ``snapshot-missing`` if the store does not give back
                what it was given; ``capture-unfit`` for a tree that no reader would accept. Whatever was written is
                removed then. ``store-not-mounted`` if nothing may be written.
            OSError: a file of a tree, or the store, cannot be read or written. The same.
        """
        folder = _folder(header.key, header.snapshot_id)
        store = self.identity.read()
        try:
            for name in self._objects.names(folder):
                self._objects.remove(folder, name)
            self._objects.begin(folder)
            return replace(self._put(folder, header, trees, check), store=store)
        except BaseException:
            with suppress(OSError, FailureError):  # the failure that is on its way says more
                self.discard(header.key, header.snapshot_id)
            raise
        finally:
            self._objects.end(folder)

    def check_key(self) -> None:
        """See that what is put from here is sealed no less than the rest of the store: a node worker has the keys, a person may not.

        Raises:
            FailureError: ``store-sealed`` or ``recipient-missing``.
            OSError: the store cannot be read.
        """
        self._objects.check_key()

    def locked(self, key: CheckpointKey, snapshot_id: SnapshotId) -> bytes:
        """Return the wrapped key of a snapshot that has one of its own, which is not here; nothing if none is needed.

        Raises:
            FailureError: why the store cannot be read.
            OSError: it cannot be read.
        """
        return self._objects.locked(f"{_folder(key, snapshot_id)}/{MANIFEST_NAME}")

    def unlock(self, key: CheckpointKey, snapshot_id: SnapshotId, data_key: bytes) -> None:
        """Take the key of a snapshot, to read it."""
        self._objects.unlock(_folder(key, snapshot_id), data_key)

    def open_manifest(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str) -> Manifest:
        """Read a manifest and check it: first that it is the one that the log speaks of, then everything in it.

        Raises:
            FailureError: ``snapshot-missing`` or ``snapshot-corrupt``, naming the object and what is wrong with it.
        """
        data = self.read_manifest(key, snapshot_id, manifest_digest)
        return check_manifest(data, key, snapshot_id, shown=f"{_folder(key, snapshot_id)}/{MANIFEST_NAME}")

    def read_manifest(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str) -> bytes:
        """Read the bytes of a manifest, which are those that the log speaks of; nothing in them is checked.

        Raises:
            FailureError: ``snapshot-missing`` or ``snapshot-corrupt``; ``snapshot-format-unknown`` if it is too large.
        """
        path = f"{_folder(key, snapshot_id)}/{MANIFEST_NAME}"
        reader = self._objects.open(path)
        try:
            if reader.size_bytes > self._limit_manifest_bytes:
                most = f"this worker reads up to {self._limit_manifest_bytes}"
                raise format_unknown(f"The manifest {path} has {reader.size_bytes} bytes, {most}.")
            data = bytes(reader.read(0, reader.size_bytes))
        finally:
            reader.close()
        actual = blake3(data).hexdigest()
        if actual != manifest_digest:
            raise corrupt(f"The manifest {path} has digest {actual}, the log says {manifest_digest}.")
        return data

    def fetch_files(self, manifest: Manifest, tree_name: TreeName, into: Path) -> None:
        """Write the verified files of a tree of plain files and directories (CRIU's images) under ``into``.

        ``into`` is made, with mode 0700, and must not exist before; it is removed again if anything fails.

        Raises:
            FailureError: ``snapshot-corrupt``, ``snapshot-missing``, ``disk-full``.
            OSError: ``into`` exists, or cannot be written.
        """
        tree = tree_of(manifest, tree_name)
        if any(entry.kind not in {"file", "directory"} or entry.hardlink is not None for entry in tree.entries):
            raise corrupt(
                f"The tree {tree_name} of snapshot {manifest.snapshot_id} holds more than files and directories."
            )
        into.mkdir(mode=0o700, parents=True)
        try:
            with self._unpacker(manifest) as unpacker:
                fetch_files(unpacker, manifest, tree, into, self._workers)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise

    def reader(self, manifest: Manifest) -> Unpacker:
        """Open the packs of a manifest: ``with store.reader(manifest) as reader: apply_tree(tree, root, reader)``."""
        return self._unpacker(manifest)

    def lacks(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str) -> str | None:
        """Look again for a snapshot of which an object was missing; return the store's identity if one still is.

        ``None`` if everything is there by now, or if the store became another one meanwhile: a file system was mounted or unmounted.

        Raises:
            FailureError: why the store cannot be identified or read.
            OSError: it cannot be read.
        """
        before = self.identity.read()
        try:
            manifest = self.open_manifest(key, snapshot_id, manifest_digest)
            for pack in manifest.packs:
                self._objects.open(f"{_folder(key, snapshot_id)}/{pack_name(pack.digest)}").close()
        except FailureError as problem:
            if problem.failure.code != SNAPSHOT_MISSING:
                raise
        else:
            return None
        return before if self.identity.read() == before else None

    def discard(self, key: CheckpointKey, snapshot_id: SnapshotId) -> None:
        """Remove every object of a snapshot, the manifest first, so that no manifest outlives its packs.

        Raises:
            OSError: the store refuses.
        """
        folder = _folder(key, snapshot_id)
        for name in sorted(self._objects.names(folder), key=lambda name: name != MANIFEST_NAME):
            self._objects.remove(folder, name)
        self._objects.prune(folder)

    def _put(
        self,
        folder: str,
        header: ManifestHeader,
        trees: Sequence[TreeToStore],
        check: Callable[[Manifest], None],
    ) -> Stored:
        with Packer(self._objects, folder, self._workers) as packer:
            listed = [(tree, _add_files(packer, tree)) for tree in trees]
            packs = packer.finish()
        if packs:
            self._objects.settle(folder)
        reach("store.after-packs")
        manifest = manifest_of(header, listed, packer.chunks, packs)
        check(manifest)
        data = encode(manifest)
        if len(data) > self._limit_manifest_bytes:  # no reader would take it
            most = f"its manifest has {len(data)} bytes, and at most {self._limit_manifest_bytes} can be read back"
            raise _unfit(most, "Have the container keep fewer files, or give them shorter names.")
        digest = blake3(data).hexdigest()
        writer = self._objects.create(folder)
        try:
            writer.write(data)
            writer.commit(MANIFEST_NAME, exclusive=True)
        except FileExistsError:  # ours, if an upload was repeated whose answer got lost: what is there will be proved
            writer.abort()
        except BaseException:
            writer.abort()
            raise
        self._objects.settle(folder)
        prove(self._objects, f"{folder}/{MANIFEST_NAME}", digest, len(data))
        reach("store.after-manifest")
        return Stored(
            manifest_digest=digest,
            raw_bytes=sum(entry.size_bytes for tree in manifest.trees for entry in tree.entries),
            stored_bytes=sum(pack.bytes for pack in packs) + len(data),
        )

    def _unpacker(self, manifest: Manifest) -> Unpacker:
        return Unpacker(self._objects, _folder(manifest.key, manifest.snapshot_id), manifest)


def manifest_of(
    header: ManifestHeader,
    listed: Iterable[tuple[TreeToStore, Mapping[str, Sequence[int]]]],
    chunks: Iterable[Chunk],
    packs: Iterable[Pack],
) -> Manifest:
    """Put a manifest together; with each tree, ``listed`` has the chunks of its files.

    Raises:
        FailureError: ``capture-unfit`` for a tree that no reader would accept.
    """
    manifest = Manifest(
        version=MANIFEST_VERSION,
        snapshot_id=header.snapshot_id,
        key=header.key,
        incarnation=header.incarnation,
        taken_at=header.taken_at,
        node_facts=header.node_facts,
        container_facts=header.container_facts,
        stopped_pids=header.stopped_pids,
        chunk_bytes=CHUNK_BYTES,
        trees=tuple(Tree(tree.name, _with_chunks(tree, landed), tree.root, tree.volume) for tree, landed in listed),
        chunks=tuple(chunks),
        packs=tuple(packs),
        warnings=header.warnings,
        environment=header.environment,
        held_files=header.held_files,
        threads=header.threads,
        databases=header.databases,
        generation=header.generation,
    )
    wrong = problem_of(manifest, header.key, header.snapshot_id)
    if wrong is not None:
        raise _unfit(wrong, "Have the container remove what is named.")
    return manifest


def check_manifest(data: bytes, key: CheckpointKey, snapshot_id: SnapshotId, *, shown: str) -> Manifest:
    """Decode a manifest whose bytes are those that the log speaks of, and check everything in it; ``shown`` names it.

    The digest has told already that these are the bytes that a worker wrote. JSON of another shape than is known here was
    therefore written by a worker of another version: it proves nothing against the snapshot.

    Raises:
        FailureError: ``snapshot-corrupt``, or ``snapshot-format-unknown``, which condemns nothing.
    """
    try:
        outline: Outline = decode(data, Outline)
    except MalformedMessageError as problem:
        raise corrupt(f"The manifest {shown} is malformed: {problem}.") from problem
    if outline.version > MANIFEST_VERSION:
        known = f"versions up to {MANIFEST_VERSION} are known here"
        raise format_unknown(f"The manifest {shown} has version {outline.version}, {known}.")
    try:
        manifest: Manifest = decode(data, Manifest)
    except MalformedMessageError as problem:
        raise format_unknown(f"The manifest {shown} says what this worker does not know: {problem}.") from problem
    wrong = problem_of(manifest, key, snapshot_id)
    if wrong is not None:
        raise corrupt(f"The manifest {shown} is not acceptable: {wrong}.")
    return manifest


def _unfit(cause: str, advice: str) -> FailureError:
    return FailureError(Failure("capture-unfit", f"The capture cannot be stored: {cause}.", advice))


def content_bytes(manifest: Manifest, trees: Iterable[Tree]) -> int:
    """Say how much the files of some trees will occupy: chunks that are holes are not written."""
    return sum(
        manifest.chunks[index].raw_bytes
        for tree in trees
        for entry in tree.entries
        for index in entry.chunks
        if index != HOLE
    )


def tree_of(manifest: Manifest, name: TreeName) -> Tree:
    """Find a tree; an empty one if the capture had none of that name."""
    return next((tree for tree in manifest.trees if tree.name == name), Tree(name, ()))


def _folder(key: CheckpointKey, snapshot_id: SnapshotId) -> str:
    """Name a snapshot's folder; checked once more, because a name such as ``..`` would be another's folder."""
    checked = CheckpointKey.checked(key.cluster, key.namespace, key.id)
    return f"{checked}/{check_id(snapshot_id, 'snapshot id')}"


def _add_files(packer: Packer, tree: TreeToStore) -> dict[str, list[int]]:
    return {entry.path: packer.add_file(tree.contents[entry.path], entry.size_bytes) for entry in files_of(tree)}


def files_of(tree: TreeToStore) -> Iterable[Entry]:
    """List the files of a tree that have content, each under its first name."""
    return (entry for entry in tree.entries if entry.kind == "file" and entry.hardlink is None and entry.size_bytes)


def _with_chunks(tree: TreeToStore, landed: Mapping[str, Sequence[int]]) -> tuple[Entry, ...]:
    return tuple(
        msgspec.structs.replace(entry, chunks=tuple(landed[entry.path])) if entry.path in landed else entry
        for entry in tree.entries
    )
