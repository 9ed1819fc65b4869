"""What lies in a store: manifests, packs, sealed objects, and trees that are put back; and archived events."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import zstandard
from blake3 import blake3
from hypothesis import strategies as st
from support.fuzzing import bytes_of, corpus, fuzz, is_refusal, json_of
from support.snapshots import HEADER, KEY, SNAPSHOT, Place, contents

from controlplane.log.archive.reader import UNREADABLE, rows_of
from nodeworker.capture.trees import Aside, apply_tree, rollback
from nodeworker.store import SnapshotStore
from nodeworker.store.archive import ArchiveWriter
from nodeworker.store.archive_reader import ArchiveReader
from nodeworker.store.chunks import unpack
from nodeworker.store.encryption_keys import KeyRing
from nodeworker.store.snapshots import check_manifest
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Chunk, Entry, Manifest, TreeName

MANIFESTS, PACKS, EVENTS = corpus("manifests"), corpus("packs"), corpus("archives")
CORRUPT = {"snapshot-corrupt", "snapshot-format-unknown"}
APPLYING = {"snapshot-corrupt", "disk-full", "capture-unfit"}
MOST_WRITTEN = 1 << 16


def test_every_specimen_is_read() -> None:
    for data in MANIFESTS:
        assert {tree.name for tree in manifest(data).trees} >= {TreeName.PROCESSES, TreeName.LAYER, TreeName.VOLUME}
    for data in EVENTS:
        assert [row["position"] for row in rows_of(io.BytesIO(data))] == [1, 2]


def manifest(data: bytes) -> Manifest:
    return check_manifest(data, KEY, SNAPSHOT, shown="it")


@contextmanager
def trap() -> Iterator[tuple[Path, Path]]:
    """A directory to put a tree into, in which links lead out of it, beside one that nothing may touch."""
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        outside, root = Path(base, "outside"), Path(base, "deep/root")
        outside.mkdir()
        (outside / "canary").write_text("alive")
        (root / "a").mkdir(parents=True)
        (root / "outside").symlink_to(outside)
        (root / "a/b").symlink_to("../../../outside")
        (root / "data").symlink_to(outside / "canary")
        (root / "seg").hardlink_to(outside / "canary")
        yield root, outside


def fill(entry: Entry, descriptor: int) -> None:
    os.ftruncate(descriptor, min(entry.size_bytes, MOST_WRITTEN))


@fuzz(data=st.one_of(json_of(MANIFESTS), json_of(MANIFESTS), bytes_of(MANIFESTS)), careful=st.booleans())
def test_a_manifest_is_refused_or_its_trees_stay_where_they_are_put(data: bytes, careful: bool) -> None:
    try:
        read = manifest(data)
    except FailureError as problem:
        is_refusal(problem, CORRUPT)
        return
    for tree in read.trees:
        if careful and tree.name is TreeName.LAYER:
            continue
        with trap() as (root, outside):
            before = (outside / "canary").stat()
            notes = root.parent.parent / "undo"
            try:
                if careful:
                    aside = Aside(root, notes, None)
                    try:
                        apply_tree(tree, root, fill, aside)
                    finally:
                        aside.close()
                else:
                    apply_tree(tree, root, fill)
            except FailureError as problem:
                is_refusal(problem, APPLYING)
            except OSError:
                pass
            assert [path.name for path in outside.iterdir()] == ["canary"]
            assert (outside / "canary").read_text() == "alive"
            after = (outside / "canary").stat()
            assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (
                after.st_mode,
                after.st_uid,
                after.st_mtime_ns,
            )
            assert {path.name for path in root.parent.parent.iterdir()} <= {"outside", "deep", "undo"}
            if careful and notes.exists():
                rollback(notes)
                assert (root / "outside").readlink() == outside
                assert (root / "seg").samefile(outside / "canary")


frames = [
    zstandard.compress(b"a" * 5000),
    zstandard.compress(os.urandom(500)),
    zstandard.ZstdCompressor(write_content_size=False).compress(b"b" * 300),
    zstandard.compress(bytes(1 << 24)),
]


@fuzz(
    stored=bytes_of([*frames, *PACKS]),
    raw_bytes=st.one_of(st.integers(1, 6000), st.sampled_from([1 << 20, 1 << 24, 1 << 40])),
    right=st.booleans(),
)
def test_a_chunk_is_what_its_digest_says_or_corrupt(stored: bytes, raw_bytes: int, right: bool) -> None:
    digest = "0" * 64
    if right:
        with suppress(zstandard.ZstdError), zstandard.ZstdDecompressor().stream_reader(stored) as reader:
            content = reader.read(1 << 20)
            digest, raw_bytes = blake3(content).hexdigest(), max(1, len(content))
    try:
        raw = unpack(stored, Chunk(digest, 0, 0, len(stored), raw_bytes), "a pack")
    except FailureError as problem:
        is_refusal(problem, {"snapshot-corrupt"})
        return
    assert len(raw) == raw_bytes
    assert blake3(raw).hexdigest() == digest


@contextmanager
def stored_in(sealed: bool) -> Iterator[tuple[SnapshotStore, Place, str]]:
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        place = Place(Path(base))
        keys = None
        if sealed:
            Path(base, "keys").write_text("ab" * 32)
            keys = KeyRing.from_file(Path(base, "keys"))
        place.store = SnapshotStore(place.root.as_uri(), workers=1, keys=keys)
        place.write("core-1.img", b"core" * 400)
        place.write("pages-1.img", bytes(range(256)) * 20)
        stored = place.store.put(HEADER, [place.listed()])
        yield place.store, place, stored.manifest_digest


edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3)


@fuzz(sealed=st.booleans(), which=st.integers(0, 9), changes=edits, cut=st.one_of(st.none(), st.integers(0, 3000)))
def test_a_store_gives_back_what_it_was_given_or_says_that_it_does_not(
    sealed: bool, which: int, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    with stored_in(sealed) as (store, place, digest):
        wanted = contents(place.images)
        objects = sorted(path for path in place.root.rglob("*") if path.is_file())
        victim = objects[which % len(objects)]
        data = bytearray(victim.read_bytes())
        for at, more in changes:
            data[at % (len(data) + 1) : at % (len(data) + 1) + len(more)] = more
        victim.chmod(0o600)
        victim.write_bytes(data[:cut])
        try:
            read = store.open_manifest(KEY, SNAPSHOT, digest)
            store.fetch_files(read, TreeName.PROCESSES, place.into)
        except FailureError as problem:
            is_refusal(problem, {"snapshot-corrupt", "snapshot-missing", "store-key-missing"})
            assert not place.into.exists()
            return
        assert contents(place.into) == wanted


@fuzz(data=json_of(MANIFESTS))
def test_an_exported_archive_names_nothing_outside_of_itself(data: bytes) -> None:
    try:
        read = manifest(data)
    except FailureError:
        return
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        files = Path(base, "files")
        files.mkdir()
        store = SnapshotStore(files.as_uri(), workers=1)
        with suppress(FailureError), store.reader(read) as unpacker:
            ArchiveWriter(read, unpacker).write(Path(base, "archive.tar"))
        assert {path.name for path in Path(base).iterdir()} <= {"files", "archive.tar"}


LINES = [zstandard.decompress(data, max_output_size=1 << 20) for data in EVENTS]


@fuzz(data=st.one_of(bytes_of(EVENTS), bytes_of(LINES).map(zstandard.compress)), stream=st.sampled_from([None, "x"]))
def test_archived_events_are_read_or_unreadable(data: bytes, stream: str | None) -> None:
    with suppress(*UNREADABLE):
        for row in rows_of(io.BytesIO(data), stream=stream):
            json.dumps(row, default=str)


@cache
def exported() -> bytes:
    """A small checkpoint archive with more than CRIU's images in it."""
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        place = Place(Path(base))
        place.write("inventory.img", b"an image")
        place.write("pages-1.img", b"memory" * 700)
        tree = place.listed()
        volume = type(tree)(TreeName.VOLUME, tree.entries, tree.contents, volume="data")
        manifest = place.open(place.store.put(HEADER, [tree, volume]))
        with place.store.reader(manifest) as reader:
            ArchiveWriter(manifest, reader).write(Path(base, "a.tar"))
        return Path(base, "a.tar").read_bytes()


@fuzz(data=st.deferred(lambda: bytes_of([exported()])))
def test_an_archive_is_refused_or_holds_what_its_manifest_says(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        path, into = Path(base, "a.tar"), Path(base, "into")
        path.write_bytes(data)
        into.mkdir()
        try:
            with ArchiveReader(path) as archive:
                unpacked = archive.unpack(into)
        except FailureError as problem:
            is_refusal(
                problem, CORRUPT | {"archive-unreadable", "archive-corrupt", "archive-without-manifest", "disk-full"}
            )
        else:
            for tree in unpacked:
                for entry in tree.entries:
                    if entry.size_bytes:
                        assert tree.contents[entry.path].stat().st_size == entry.size_bytes
        assert {each.name for each in Path(base).iterdir()} == {"a.tar", "into"}
        assert all(each.name.isdigit() and each.is_file() for each in into.iterdir())
