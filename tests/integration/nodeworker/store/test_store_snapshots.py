"""Putting and fetching snapshots: what is stored, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from obstore.store import LocalStore, MemoryStore
from support.snapshots import HEADER, KEY, MIB, SNAPSHOT, Place, contents, mixed, noise, refusal

from nodeworker.capture.trees import CapturedTree
from nodeworker.store import SnapshotStore, Stored, tree_of
from nodeworker.store.buckets import BucketObjects
from nodeworker.store.encryption import SealedObjects
from nodeworker.store.encryption_keys import KeyRing
from nodeworker.store.identity import MARK
from nodeworker.store.object_store import DirectoryObjects
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import CONDEMNING_CODES, FailureError
from woodfrog.protocol.ids import CheckpointKey, InvalidIdError, SnapshotId
from woodfrog.protocol.manifest import HOLE, MANIFEST_VERSION, Entry, TreeName


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_put_comes_back_and_nothing_else(place: Place) -> None:
    mixed(place)
    stored = place.put()
    assert place.fetch(stored) == contents(place.images)
    assert stored.raw_bytes == sum(len(data) for data in contents(place.images).values())
    assert stored.stored_bytes == sum(path.stat().st_size for path in place.folder.iterdir())


def test_the_manifest_carries_the_header(place: Place) -> None:
    place.write("a", b"a")
    manifest = place.open(place.put())
    assert manifest.taken_at == HEADER.taken_at
    assert (manifest.key, manifest.incarnation, manifest.stopped_pids, manifest.warnings) == (KEY, 3, (7,), ("w",))
    assert manifest.node_facts == NodeFacts("x86_64")


def test_an_empty_capture_can_be_stored(place: Place) -> None:
    stored = place.put()
    assert place.fetch(stored) == {}
    assert [path.name for path in place.folder.iterdir()] == ["manifest.json"]


def test_zeros_cost_nothing_and_come_back_as_holes(place: Place) -> None:
    place.write("pages-1.img", bytes(64 * MIB + 5))
    stored = place.put()
    assert place.packs() == []
    assert place.fetch(stored) == {"pages-1.img": bytes(64 * MIB + 5)}
    assert (place.into / "pages-1.img").stat().st_blocks == 0


def test_a_sparse_file_is_stored_without_its_holes(place: Place) -> None:
    with (place.images / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(500 << 30)
        file.write(b"here")
    stored = place.put()
    manifest = place.open(stored)
    (entry,) = tree_of(manifest, TreeName.PROCESSES).entries
    assert [index for index in entry.chunks if index != HOLE] == [0]
    place.store.fetch_files(manifest, TreeName.PROCESSES, place.into)
    assert (place.into / "sparse").stat().st_size == 1 << 40
    with (place.into / "sparse").open("rb") as file:
        file.seek(500 << 30)
        assert file.read(5) == b"here\0"


def test_a_chunk_that_occurs_twice_is_stored_once(place: Place) -> None:
    block = noise(MIB)
    place.write("a", block * 20)
    place.write("b", block * 7)
    stored = place.put()
    assert stored.stored_bytes < 1.1 * MIB
    assert place.fetch(stored) == {"a": block * 20, "b": block * 7}


def test_what_cannot_be_compressed_is_kept_as_it_is(place: Place) -> None:
    place.write("noise", noise(5 * MIB))
    manifest = place.open(place.put())
    assert all(chunk.stored_bytes == chunk.raw_bytes for chunk in manifest.chunks)
    assert sum(pack.bytes for pack in manifest.packs) == 5 * MIB


def test_a_large_snapshot_is_a_few_objects(place: Place) -> None:
    place.write("noise", noise(150 * MIB))
    stored = place.put()
    assert [path.stat().st_size >> 20 for path in place.packs()].count(64) == 2
    assert len(list(place.folder.iterdir())) == 4
    assert place.fetch(stored) == contents(place.images)


def test_packs_are_named_by_their_digest_and_private(place: Place) -> None:
    mixed(place)
    before = os.umask(0)
    try:
        place.put()
    finally:
        os.umask(before)
    for pack in place.packs():
        assert pack.stem == blake3(pack.read_bytes()).hexdigest()
    for path in place.root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o700


def test_the_same_capture_makes_the_same_objects(place: Place) -> None:
    mixed(place)
    first = place.put()
    assert place.put() == first


def test_obstore_reads_the_directory_as_it_was_written(place: Place) -> None:
    mixed(place)
    stored = place.put()
    place.store._objects = BucketObjects(LocalStore(place.root), "file:")
    assert place.fetch(stored) == contents(place.images)


def test_a_bucket_stores_and_returns_the_same(place: Place) -> None:
    mixed(place)
    place.store._objects = SealedObjects(BucketObjects(MemoryStore(), "memory:"), KeyRing())
    stored = place.put()
    assert place.fetch(stored) == contents(place.images)
    place.store.discard(KEY, SNAPSHOT)
    assert refusal(lambda: place.open(stored)).failure.code == "snapshot-missing"


def test_a_url_that_names_no_directory_of_this_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="file:///directory"):
        SnapshotStore("file://elsewhere/dir")


def test_a_flipped_bit_anywhere_in_a_pack_is_noticed_and_nothing_is_left(place: Place) -> None:
    mixed(place)
    stored = place.put()
    (pack,) = place.packs()
    original = pack.read_bytes()
    rng = random.Random(5)
    for _ in range(25):
        data = bytearray(original)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        pack.write_bytes(data)
        failure = refusal(lambda: place.fetch(stored)).failure
        assert failure.code == "snapshot-corrupt"
        assert pack.name in failure.cause
        assert not place.into.exists()


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(place: Place) -> None:
    mixed(place)
    stored = place.put()
    path = place.folder / "manifest.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    failure = refusal(lambda: place.open(stored)).failure
    assert failure.code == "snapshot-corrupt"
    assert stored.manifest_digest in failure.cause


@pytest.mark.parametrize("keep", [0, 1, -1])
def test_a_truncated_pack_is_noticed(place: Place, keep: int) -> None:
    mixed(place)
    stored = place.put()
    (pack,) = place.packs()
    os.truncate(pack, keep % pack.stat().st_size)
    failure = refusal(lambda: place.fetch(stored)).failure
    assert failure.code == "snapshot-corrupt"
    assert pack.name in failure.cause
    assert not place.into.exists()


def test_a_missing_pack_is_named(place: Place) -> None:
    mixed(place)
    stored = place.put()
    (pack,) = place.packs()
    pack.unlink()
    failure = refusal(lambda: place.fetch(stored)).failure
    assert failure.code == "snapshot-missing"
    assert pack.name in failure.cause
    assert not place.into.exists()


def test_a_missing_manifest_is_named(place: Place) -> None:
    failure = refusal(lambda: place.store.open_manifest(KEY, SNAPSHOT, "0" * 64)).failure
    assert failure.code == "snapshot-missing"
    assert "manifest.json" in failure.cause


def test_a_pack_that_is_a_symlink_is_not_read(place: Place, tmp_path: Path) -> None:
    mixed(place)
    stored = place.put()
    (pack,) = place.packs()
    pack.rename(tmp_path / "elsewhere")
    pack.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailureError, match="symbolic links"):
        place.fetch(stored)


def test_a_directory_that_is_there_already_is_not_fetched_into(place: Place) -> None:
    place.write("a", b"a")
    stored = place.put()
    place.into.mkdir()
    (place.into / "mine").touch()
    with pytest.raises(FileExistsError):
        place.fetch(stored)
    assert (place.into / "mine").exists()


def first(manifest: dict) -> dict:  # type: ignore[type-arg]
    entry: dict = manifest["trees"][0]["entries"][0]  # type: ignore[type-arg]
    return entry


ROOT = {"mode": 0o755, "uid": 0, "gid": 0, "mtime_ns": 0}
FORGERIES: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "leaves through dots": lambda m: first(m).update(path="../outside"),
    "leaves through inner dots": lambda m: first(m).update(path="a/../../outside"),
    "leaves through marked dots": lambda m: first(m).update(path="\U0010fffe2e\U0010fffe2e/outside"),
    "leaves through a marked slash": lambda m: first(m).update(path="\U0010fffe2fetc"),
    "is absolute": lambda m: first(m).update(path="/etc/passwd"),
    "is empty": lambda m: first(m).update(path=""),
    "has a NUL": lambda m: first(m).update(path="a\0b"),
    "has a marked NUL": lambda m: first(m).update(path="a\U0010fffe00b"),
    "is too long": lambda m: first(m).update(path="a" * 256),
    "has no parent": lambda m: first(m).update(path="nowhere/file"),
    "occurs twice": lambda m: m["trees"][0]["entries"].append(first(m)),
    "tree occurs twice": lambda m: m["trees"].append(m["trees"][0]),
    "symlink in processes": lambda m: first(m).update(kind="symlink", target="/etc", chunks=[], size_bytes=0),
    "whiteout in processes": lambda m: first(m).update(kind="whiteout", chunks=[], size_bytes=0),
    "setuid beyond": lambda m: first(m).update(mode=0o10_0000),
    "negative owner": lambda m: first(m).update(uid=-1),
    "impossible time": lambda m: first(m).update(mtime_ns=1 << 63),
    "trusted attribute": lambda m: first(m).update(xattrs={"trusted.overlay.redirect": "L2V0Yw=="}),
    "security label": lambda m: first(m).update(xattrs={"security.selinux": "YQ=="}),
    "absurd size": lambda m: first(m).update(size_bytes=1 << 62),
    "negative size": lambda m: first(m).update(size_bytes=-1),
    "size without chunks": lambda m: first(m).update(chunks=[]),
    "chunk that is not": lambda m: first(m).update(chunks=[99]),
    "chunk before the first": lambda m: first(m).update(chunks=[-2]),
    "chunk outside of its pack": lambda m: m["chunks"][0].__setitem__(2, 1 << 40),
    "chunk at a negative offset": lambda m: m["chunks"][0].__setitem__(2, -1),
    "chunk of a negative length": lambda m: m["chunks"][0].__setitem__(3, -1),
    "chunk of a pack that is not": lambda m: m["chunks"][0].__setitem__(1, 7),
    "chunk of a negative pack": lambda m: m["chunks"][0].__setitem__(1, -1),
    "chunk larger than chunks are": lambda m: m["chunks"][0].__setitem__(4, 1 << 30),
    "digest that is a path": lambda m: m["packs"][0].update(digest="../" * 21 + "a"),
    "absurd pack": lambda m: m["packs"][0].update(bytes=1 << 60),
    "absurd chunks": lambda m: m.update(chunk_bytes=1 << 40),
    "no chunk size": lambda m: m.update(chunk_bytes=0),
    "another snapshot": lambda m: m.update(snapshot_id="20261123T214501Z-00000000"),
    "no version": lambda m: m.pop("version"),
    "version before the first": lambda m: m.update(version=0),
    "another key": lambda m: m["key"].update(namespace="theirs"),
    "a hardlink to nothing": lambda m: first(m).update(hardlink="b", chunks=[], size_bytes=0),
    "root with a mode beyond": lambda m: m["trees"][0].update(root={**ROOT, "mode": 0o10_0000}),
    "root with a label": lambda m: m["trees"][0].update(root={**ROOT, "xattrs": {"security.selinux": "YQ=="}}),
    "a hardlink to itself": lambda m: first(m).update(hardlink="a", chunks=[], size_bytes=0),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_refused_although_its_digest_is_right(place: Place, name: str) -> None:
    place.write("a", b"content")
    place.put()
    forged = place.forge(lambda manifest: FORGERIES[name](manifest) and None)
    failure = refusal(lambda: place.open(forged)).failure
    assert failure.code in CONDEMNING_CODES
    assert "manifest.json" in failure.cause


OF_ANOTHER_WORKER: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "a newer version": lambda m: m.update(version=MANIFEST_VERSION + 1),
    "a newer version of another shape": lambda m: (m.update(version=MANIFEST_VERSION + 1), m.pop("trees")),
    "an unknown tree": lambda m: m["trees"].append({"name": "devices", "entries": []}),
    "an unknown kind of entry": lambda m: first(m).update(kind="block"),
    "a field of another type": lambda m: m.update(packs={}),
}


@pytest.mark.parametrize("name", OF_ANOTHER_WORKER)
def test_a_manifest_of_a_worker_of_another_version_is_left_alone_and_not_condemned(place: Place, name: str) -> None:
    place.write("a", b"content")
    place.put()
    forged = place.forge(lambda manifest: OF_ANOTHER_WORKER[name](manifest) and None)
    failure = refusal(lambda: place.open(forged)).failure
    assert failure.code == "snapshot-format-unknown"
    assert "Update the node worker" in failure.advice


def test_a_field_that_a_newer_worker_added_and_that_may_be_ignored_is_ignored(place: Place) -> None:
    place.write("a", b"content")
    place.put()
    place.open(place.forge(lambda manifest: manifest.update(mood="sunny")))


def test_a_frame_that_claims_an_absurd_size_is_refused_before_memory_is_taken(place: Place) -> None:
    place.write("a", b"compressible " * 1000)
    stored = place.put()
    (pack,) = place.packs()
    frame = bytearray(pack.read_bytes())
    frame[4] = 0xE0  # a single segment with an eight-byte content size
    frame[5:13] = (1 << 50).to_bytes(8, "little")
    pack.write_bytes(frame)
    assert "not a zstd frame" in refusal(lambda: place.fetch(stored)).failure.cause


def test_a_manifest_of_an_absurd_size_is_not_read_and_condemns_nothing(place: Place) -> None:
    place.write("a", b"a")
    stored = place.put()
    os.truncate(place.folder / "manifest.json", 1 << 40)
    with pytest.raises(FailureError) as caught:
        place.open(stored)
    assert caught.value.failure.code == "snapshot-format-unknown"
    assert caught.value.failure.code not in CONDEMNING_CODES


class _Broken:
    """A directory whose medium fails in one way."""

    def __init__(self, inner: DirectoryObjects, fault: Callable[[Path], None], root: Path) -> None:
        self.inner = inner
        self.fault = fault
        self.root = root

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def open(self, path: str, *, fresh: bool = False) -> object:
        if fresh:
            self.fault(self.root / path)
        return self.inner.open(path, fresh=fresh)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", [_flip, lambda path: os.truncate(path, 1), Path.unlink])
@pytest.mark.parametrize("victim", ["pack", "manifest.json"])
def test_a_medium_that_does_not_give_back_what_it_took_makes_no_valid_snapshot(
    place: Place, fault: Callable[[Path], None], victim: str
) -> None:
    mixed(place)
    inner = DirectoryObjects(place.root)
    hit: Callable[[Path], None] = lambda path: fault(path) if path.name.endswith(victim) else None  # noqa: E731
    place.store._objects = SealedObjects(_Broken(inner, hit, place.root), KeyRing())  # type: ignore[arg-type]
    assert refusal(place.put).failure.code in CONDEMNING_CODES
    assert not place.folder.exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "tiny"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(point)], check=True)
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("size", [19 * MIB + 900_000, 40 * MIB, 100 * MIB])
def test_a_full_disk_is_said_so_and_nothing_is_left_of_the_snapshot(place: Place, tiny_disk: Path, size: int) -> None:
    place.write("noise", noise(size))
    (tiny_disk / "other").write_bytes(bytes(500_000))
    place.store = SnapshotStore(tiny_disk.as_uri())
    failure = refusal(place.put).failure
    assert failure.code == "disk-full"
    assert str(tiny_disk) in failure.cause
    left = {path.name for path in tiny_disk.rglob("*") if path.is_file()}
    assert left == {"other", MARK}


@pytest.mark.root
def test_fetching_to_a_full_disk_is_said_so_before_it_begins(place: Place, tiny_disk: Path) -> None:
    place.write("noise", noise(30 * MIB))
    manifest = place.open(place.put())
    failure = refusal(lambda: place.store.fetch_files(manifest, TreeName.PROCESSES, tiny_disk / "into")).failure
    assert failure.code == "disk-full"
    assert list(tiny_disk.iterdir()) == []


def test_a_disk_that_fills_while_fetching_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(place)
    stored = place.put()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert refusal(lambda: place.fetch(stored)).failure.code == "disk-full"
    assert not place.into.exists()


def test_a_file_that_shrinks_while_it_is_stored_makes_no_snapshot(place: Place) -> None:
    place.write("a", b"a" * 5000)
    listed = place.listed()
    os.truncate(place.images / "a", 10)
    with pytest.raises(FailureError, match="shorter"):
        place.store.put(HEADER, [listed])
    assert not place.folder.exists()


def test_a_tree_that_no_reader_would_accept_is_not_stored(place: Place) -> None:
    odd = CapturedTree(TreeName.PROCESSES, (Entry("link", "symlink", target="x"),), {})
    assert refusal(lambda: place.store.put(HEADER, [odd])).failure.code == "capture-unfit"
    assert not place.folder.exists()


def _put_elsewhere(place: Place, fault: str) -> int:
    """Put in a process of its own and return its exit status."""
    code = (
        "import sys\n"
        "from datetime import UTC, datetime\n"
        "from pathlib import Path\n"
        "from nodeworker.capture.trees import list_tree\n"
        "from nodeworker.store import ManifestHeader, SnapshotStore\n"
        "from woodfrog.protocol.facts import ContainerFacts, NodeFacts\n"
        "from woodfrog.protocol.ids import CheckpointKey\n"
        "url, images, snapshot = sys.argv[1:]\n"
        "key = CheckpointKey('local', 'default', 'a.b')\n"
        "header = ManifestHeader(snapshot, key, 3, datetime.now(UTC), NodeFacts(), ContainerFacts())\n"
        "SnapshotStore(url).put(header, [list_tree('processes', Path(images))])\n"
    )
    command = [sys.executable, "-c", code, place.root.as_uri(), str(place.images), SNAPSHOT]
    return subprocess.run(command, env={**os.environ, "WOODFROG_FAULT": fault}, check=False).returncode


def test_a_process_killed_before_the_manifest_leaves_no_valid_snapshot_and_the_next_put_cleans_up(place: Place) -> None:
    mixed(place)
    assert _put_elsewhere(place, "store.after-packs=kill") == -signal.SIGKILL
    assert len(place.packs()) == 1
    assert not (place.folder / "manifest.json").exists()
    (place.folder / ".partial-left-over").write_bytes(b"half")
    place.write("pages-1.img", b"other content")
    stored = place.put()
    assert len(place.packs()) == 1
    assert not (place.folder / ".partial-left-over").exists()
    assert place.fetch(stored) == contents(place.images)


def test_a_process_killed_after_the_manifest_leaves_a_valid_snapshot(place: Place) -> None:
    mixed(place)
    assert _put_elsewhere(place, "store.after-manifest=kill") == -signal.SIGKILL
    digest = blake3((place.folder / "manifest.json").read_bytes()).hexdigest()
    assert place.fetch(Stored(digest, 0, 0)) == contents(place.images)


def test_a_fault_after_the_packs_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(place)
    monkeypatch.setattr("woodfrog.service.faultpoints._actions", {"store.after-packs": "raise"})
    with pytest.raises(RuntimeError, match="fault point"):
        place.put()
    assert not place.folder.exists()


def test_discarding_removes_one_snapshot_and_only_that(place: Place) -> None:
    mixed(place)
    place.put()
    other = SnapshotId("20261123T214502Z-00000000")
    kept = place.store.put(dataclasses.replace(HEADER, snapshot_id=other), [place.listed()])
    place.store.discard(KEY, SNAPSHOT)
    place.store.discard(KEY, SNAPSHOT)
    assert not place.folder.exists()
    assert place.store.open_manifest(KEY, other, kept.manifest_digest).snapshot_id == other


def test_no_file_stays_open(place: Place) -> None:
    mixed(place)
    before = len(list(Path("/proc/self/fd").iterdir()))
    stored = place.put()
    place.fetch(stored)
    (pack,) = place.packs()
    _flip(pack)
    place.into = place.into.with_name("again")
    refusal(lambda: place.fetch(stored))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("odd", ["..", "../other", "a/b", "", "/etc"])
def test_a_name_that_would_be_anothers_folder_is_refused(place: Place, odd: str) -> None:
    with pytest.raises(InvalidIdError):
        place.store.discard(KEY, SnapshotId(odd))
    with pytest.raises(InvalidIdError):
        place.store.open_manifest(CheckpointKey("local", odd, "a"), SNAPSHOT, "0" * 64)
