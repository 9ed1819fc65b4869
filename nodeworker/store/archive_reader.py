"""An archive that :mod:`nodeworker.store.archive` wrote, read back: what it holds is proved before any of it counts.

An archive may have been anywhere in between, so it is read like a message from an enemy. The manifest in it is checked as one from a
store is. Of everything else only the content of files is taken: which files there are, their names and attributes says the manifest, and
each of its chunks has to have the manifest's digest. No path of the archive is ever used as one: contents are written to numbered files.
"""

from __future__ import annotations

import itertools
import os
import tarfile
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

import msgspec
from blake3 import blake3

from nodeworker.domain.common_failures import disk_full, is_disk_full
from nodeworker.domain.filename_codec import bytes_of
from nodeworker.store.archive import CHECKPOINT, MANIFEST, name_of
from nodeworker.store.snapshots import LIMIT_MANIFEST_BYTES, check_manifest, content_bytes
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, SnapshotId, check_id
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Root, Tree, TreeName
from woodfrog.protocol.wire import MalformedMessageError, decode, nul_in, shortened

_UNREADABLE: Final = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
)
"""What tarfile raises of a file that is not an archive, or not one that a tool would write."""
_AGAIN: Final = "Copy it again, or export the snapshot again."
_NEWER: Final = "Import it with the release that exported it, or a later one."


class _Name(msgspec.Struct, frozen=True):
    """Whose manifest it is."""

    key: CheckpointKey
    snapshot_id: SnapshotId


@dataclass(frozen=True, slots=True)
class UnpackedTree:
    """One tree, its contents in files on this machine: what ``SnapshotStore.put`` takes."""

    name: TreeName
    volume: str
    root: Root | None
    entries: Sequence[Entry]
    contents: Mapping[str, Path]


@dataclass(slots=True)
class _Wanted:
    """The files of one tree that the archive still owes, by their names in it."""

    tree: Tree
    missing: dict[str, Entry]
    contents: dict[str, Path] = field(default_factory=dict)


class ArchiveReader:
    """Reads one archive; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open it and read its manifest.

        Raises:
            FailureError: ``archive-unreadable``, ``archive-without-manifest``, ``snapshot-corrupt``, ``snapshot-format-unknown``.
        """
        self._path = path
        self._numbers = itertools.count()
        self.done_bytes = 0
        """Of files that were unpacked, so far."""
        try:
            self._file = path.open("rb")
        except OSError as problem:
            raise self._unreadable(problem.strerror or str(problem)) from problem
        try:
            data = self._manifest_bytes()
            self.digest: str = blake3(data).hexdigest()
            self.manifest = self._checked(data)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def unpack(self, into: Path) -> list[UnpackedTree]:
        """Prove everything and write the contents of files into the empty directory ``into``.

        Raises:
            FailureError: ``archive-corrupt`` or ``archive-unreadable``, naming the file; ``disk-full``.
            OSError: a file cannot be written.
        """
        needed, space = content_bytes(self.manifest, self.manifest.trees), os.statvfs(into)
        if needed > space.f_bavail * space.f_frsize:
            raise disk_full(str(into), f"{needed} bytes are needed, {space.f_bavail * space.f_frsize} are free")
        wanted = [_Wanted(tree, _files(tree)) for tree in self.manifest.trees]
        try:
            self._unpack(wanted, into)
        except OSError as problem:
            if is_disk_full(problem):
                raise disk_full(str(into), str(problem)) from problem
            raise
        for each in wanted:
            if each.missing:
                raise self._corrupt(f"the file {next(iter(each.missing))[:200]!r} of its manifest is not in it")
        return [
            UnpackedTree(
                each.tree.name,
                each.tree.volume,
                each.tree.root,
                [msgspec.structs.replace(entry, chunks=()) if entry.chunks else entry for entry in each.tree.entries],
                each.contents,
            )
            for each in wanted
        ]

    def _manifest_bytes(self) -> bytes:
        with self._opened(self._file) as tar:
            for member in self._members(tar):
                if member.name == MANIFEST and member.isreg():
                    if member.size > LIMIT_MANIFEST_BYTES:
                        raise self._unreadable(f"its manifest has {member.size} bytes")
                    return self._piece(self._content(tar, member), member.size, MANIFEST)
        advice = (
            "Import an archive that `woodfrog export` of this release or a later one wrote; others do not say enough."
        )
        raise FailureError(Failure("archive-without-manifest", f"{self._path} holds no {MANIFEST}", advice))

    def _checked(self, data: bytes) -> Manifest:
        try:
            named: _Name = decode(data, _Name)
            key = CheckpointKey.checked(named.key.cluster, named.key.namespace, named.key.id)
            snapshot_id = SnapshotId(check_id(named.snapshot_id, "snapshot id"))
        except (MalformedMessageError, ValueError) as problem:
            raise self._corrupt(f"its manifest does not say what it is of: {shortened(str(problem))}") from problem
        try:
            manifest = check_manifest(data, key, snapshot_id, shown=f"{self._path}:{MANIFEST}")
        except FailureError as problem:  # it advises whoever restores
            advice = _NEWER if problem.failure.code == "snapshot-format-unknown" else _AGAIN
            raise FailureError(msgspec.structs.replace(problem.failure, advice=advice)) from problem
        told = msgspec.structs.replace(manifest, trees=(), chunks=(), packs=())
        if (place := nul_in(told)) is not None:
            raise self._corrupt(f"its manifest has a text that holds a NUL - at `{place}`")
        return manifest

    def _unpack(self, wanted: Sequence[_Wanted], into: Path) -> None:
        processes = next((each for each in wanted if each.tree.name is TreeName.PROCESSES), None)
        nested: dict[str, deque[_Wanted]] = defaultdict(deque)
        for each in wanted:
            if each is not processes:
                nested[name_of(each.tree)].append(each)
        with self._opened(self._file) as tar:
            for member in self._members(tar):
                if not member.isreg():
                    continue
                if processes is not None and member.name.startswith(CHECKPOINT):
                    self._take(tar, member, member.name.removeprefix(CHECKPOINT), processes, into)
                elif nested.get(member.name):
                    tree = nested[member.name].popleft()
                    with self._opened(self._content(tar, member)) as inner:
                        for file in self._members(inner):
                            if file.isreg():
                                self._take(inner, file, file.name, tree, into)

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, of: _Wanted, into: Path) -> None:
        """Prove one file and write it; one that the manifest does not know is left alone."""
        entry = of.missing.pop(name, None)
        if entry is None:
            return
        if member.size != entry.size_bytes:
            raise self._corrupt(f"{name[:200]!r} has {member.size} bytes in it, its manifest says {entry.size_bytes}")
        content = self._content(tar, member)
        path = into / str(next(self._numbers))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for position, index in enumerate(entry.chunks):
                offset = position * self.manifest.chunk_bytes
                raw = self._piece(content, min(self.manifest.chunk_bytes, entry.size_bytes - offset), name)
                self.done_bytes += len(raw)
                if index == HOLE:
                    if raw.count(0) != len(raw):
                        raise self._corrupt(f"{name[:200]!r} has data at byte {offset}, where its manifest says zeros")
                    continue
                if blake3(raw).hexdigest() != self.manifest.chunks[index].digest:
                    raise self._corrupt(f"{name[:200]!r} does not have the digest of its manifest at byte {offset}")
                _write(file.fileno(), raw, offset)
            file.truncate(entry.size_bytes)
        of.contents[entry.path] = path

    def _piece(self, content: IO[bytes], length: int, name: str) -> bytes:
        try:
            raw = content.read(length)
        except _UNREADABLE as problem:
            raise self._unreadable(f"{name[:200]!r}: {problem}") from problem
        if len(raw) != length:
            raise self._unreadable(f"it ends within {name[:200]!r}")
        return raw

    @contextmanager
    def _opened(self, file: IO[bytes]) -> Iterator[tarfile.TarFile]:
        file.seek(0)
        try:
            tar = tarfile.TarFile(fileobj=file, mode="r", errors="surrogateescape")
        except _UNREADABLE as problem:
            raise self._unreadable(str(problem)) from problem
        with tar:
            yield tar

    def _members(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        while True:
            try:
                member = tar.next()
            except _UNREADABLE as problem:
                raise self._unreadable(str(problem)) from problem
            if member is None:
                return
            yield member
            tar.members.clear()  # type: ignore[attr-defined]  # it remembers every member; a snapshot may have a million

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
        content = tar.extractfile(member)
        if content is None:
            raise self._unreadable(f"{member.name[:200]!r} has no content")
        return content

    def _unreadable(self, what: str) -> FailureError:
        advice = "Name an archive that `woodfrog export` wrote, and copy it again if it is not whole."
        return FailureError(
            Failure("archive-unreadable", f"{self._path} cannot be read as an archive: {shortened(what)}", advice)
        )

    def _corrupt(self, what: str) -> FailureError:
        cause = f"{self._path} is not what was exported: {shortened(what)}"
        return FailureError(Failure("archive-corrupt", cause, _AGAIN))


def _files(tree: Tree) -> dict[str, Entry]:
    """List the files that have content, by the names that they have in the archive."""
    return {
        os.fsdecode(bytes_of(entry.path)): entry
        for entry in tree.entries
        if entry.kind == "file" and entry.hardlink is None and entry.size_bytes
    }


def _write(descriptor: int, raw: bytes, offset: int) -> None:
    view = memoryview(raw)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
