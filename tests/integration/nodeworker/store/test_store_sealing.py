"""Encryption at rest: what lies in the store tells nothing, what was changed is noticed, and a wrong key condemns nothing."""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from support.buckets import BUCKET, s3_server
from support.snapshots import HEADER, KEY, MIB, SNAPSHOT, Place, contents, mixed, noise, refusal

from nodeworker.store import KeyRing, ManifestHeader, SnapshotStore
from nodeworker.store.encryption import SEGMENT_BYTES, SealedObjects
from nodeworker.store.encryption_keys import StoreKey
from nodeworker.store.identity import MARK
from nodeworker.store.object_store import DirectoryObjects
from woodfrog.protocol.failures import CONDEMNING_CODES
from woodfrog.protocol.ids import CheckpointKey

pytestmark = pytest.mark.timeout(120)

OLD, NEW, OTHER = (StoreKey(bytes([number]) * 32) for number in (1, 2, 3))


def opened(place: Place, *keys: StoreKey) -> SnapshotStore:
    return SnapshotStore(place.root.as_uri(), workers=2, keys=KeyRing(keys))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.store = opened(place, NEW, OLD)
    return place


def files(place: Place) -> list[Path]:
    return sorted(
        path for path in place.root.rglob("*") if path.is_file() and not {"sealed-keys", MARK} & {*path.parts}
    )


def test_what_was_put_comes_back(place: Place) -> None:
    mixed(place)
    assert place.fetch(place.put()) == contents(place.images)


def test_nothing_in_the_store_tells_what_is_in_it(place: Place) -> None:
    text = b"this is what a process had in its memory " * 4000
    place.write("secret-name.img", text)
    stored = place.put()
    manifest = place.open(stored)
    told = [KEY.id, KEY.namespace + "/", SNAPSHOT, "secret-name", stored.manifest_digest]
    told += [each.digest for each in (*manifest.packs, *manifest.chunks)]
    for path in place.root.rglob("*"):
        shown = str(path.relative_to(place.root)).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [each for each in told if each.encode() in shown]
        assert text[:41] not in shown
        assert path.stat().st_mode & 0o077 == 0


def test_equal_content_has_unrelated_names_and_bytes_in_two_namespaces(place: Place) -> None:
    place.write("a", noise(MIB))
    place.put()
    first = {path.name: path.read_bytes() for path in files(place)}
    other = ManifestHeader(
        SNAPSHOT, CheckpointKey("local", "another", "a.b"), HEADER.incarnation, HEADER.taken_at,
        HEADER.node_facts, HEADER.container_facts,
    )  # fmt: skip
    place.store.put(other, [place.listed()])
    packs = [path for path in files(place) if path.suffix == ".pack"]
    assert len({path.name for path in packs}) == 2
    assert len({path.read_bytes()[:100] for path in files(place)}) == 4
    assert len(first) == 2


def test_storing_the_same_again_never_repeats_a_key_or_nonce(place: Place) -> None:
    place.write("a", noise(3 * SEGMENT_BYTES))
    seen = set()
    for _ in range(4):
        place.put()
        seen |= {path.read_bytes()[8:48] for path in files(place)}
    assert len(seen) == 8, "each object has a salt of its own"


def test_a_snapshot_is_read_with_an_old_key_and_written_with_the_first(place: Place) -> None:
    mixed(place)
    place.store = opened(place, OLD)
    stored = place.put()
    place.store = opened(place, NEW, OLD)
    assert place.fetch(stored) == contents(place.images)
    assert place.put() == stored
    assert {path.relative_to(place.root).parts[:2] for path in files(place)} == {("sealed", NEW.id.hex())}
    assert sorted(path.name for path in (place.root / "sealed-keys").iterdir()) == sorted([OLD.id.hex(), NEW.id.hex()])


def test_what_was_stored_before_encryption_is_still_read_and_can_be_discarded(place: Place) -> None:
    mixed(place)
    place.store = opened(place)
    stored = place.put()
    place.store = opened(place, NEW)
    assert place.fetch(stored) == contents(place.images)
    place.store.discard(KEY, SNAPSHOT)
    assert files(place) == []


def test_a_wrong_key_and_no_key_are_told_and_condemn_nothing(place: Place) -> None:
    mixed(place)
    stored = place.put()
    place.store = opened(place, OTHER)
    wrong = refusal(lambda: place.open(stored)).failure
    assert wrong.code == "store-key-unknown"
    assert NEW.id.hex() in wrong.cause
    place.store = opened(place)
    none = refusal(lambda: place.open(stored)).failure
    assert none.code == "store-sealed"
    assert "WOODFROG_STORE_KEY_FILE" in none.advice
    assert not {wrong.code, none.code} & CONDEMNING_CODES
    assert len(files(place)) == 2


def test_a_snapshot_that_is_gone_is_missing_also_where_all_keys_are_there(place: Place) -> None:
    mixed(place)
    stored = place.put()
    place.store.discard(KEY, SNAPSHOT)
    assert files(place) == []
    assert refusal(lambda: place.open(stored)).failure.code == "snapshot-missing"


def test_a_flipped_bit_anywhere_is_noticed(place: Place) -> None:
    mixed(place)
    stored = place.put()
    rng = random.Random(11)
    for path in files(place):
        original = path.read_bytes()
        for at in [0, 9, 17, 48, len(original) - 1, *(rng.randrange(len(original)) for _ in range(12))]:
            data = bytearray(original)
            data[at] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            assert refusal(lambda: place.fetch(stored)).failure.code == "snapshot-corrupt"
        path.write_bytes(original)
    assert place.fetch(stored) == contents(place.images)


WHOLE = SEGMENT_BYTES + 16


@pytest.mark.parametrize(
    "size", [0, 1, 47, 48, 63, 64, 48 + WHOLE, 48 + WHOLE + 16, 48 + 2 * WHOLE, 48 + 2 * WHOLE + 5]
)
def test_an_object_cut_off_anywhere_is_noticed(tmp_path: Path, size: int) -> None:
    objects = SealedObjects(DirectoryObjects(tmp_path), KeyRing((NEW,)))
    data = noise(3 * SEGMENT_BYTES)
    _write(objects, "a/folder", "x", data)
    (path,) = tmp_path.rglob("*.pack")
    os.truncate(path, size)

    def read() -> None:
        reader = objects.open("a/folder/x")
        try:
            reader.read(0, reader.size_bytes)
        finally:
            reader.close()
        assert reader.size_bytes == len(data)

    assert refusal(read).failure.code == "snapshot-corrupt"


def _write(objects: SealedObjects, folder: str, name: str, data: bytes, step: int = 1000) -> None:
    writer = objects.create(folder)
    for at in range(0, len(data), step):
        writer.write(data[at : at + step])
    writer.commit(name)


def test_an_object_moved_to_another_snapshot_is_noticed(place: Place) -> None:
    mixed(place)
    place.put()
    objects = SealedObjects(DirectoryObjects(place.root), KeyRing((NEW,)))
    _write(objects, "one", "manifest.json", b"of one")
    _write(objects, "two", "manifest.json", b"of two")
    one, two = (place.root / "sealed" / NEW.id.hex() / NEW.name(each) / "manifest.json" for each in ("one", "two"))
    two.write_bytes(one.read_bytes())
    assert refusal(lambda: objects.open("two/manifest.json").read(0, 6)).failure.code == "snapshot-corrupt"


@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 200_001]
)
@pytest.mark.parametrize("step", [1, 4097, SEGMENT_BYTES, 10**6])
def test_any_range_of_any_object_comes_back(tmp_path: Path, size: int, step: int) -> None:
    objects = SealedObjects(DirectoryObjects(tmp_path), KeyRing((NEW,)))
    data = noise(size)
    _write(objects, "f", "x", data, max(step, size // 1000, 1))
    reader = objects.open("f/x")
    assert reader.size_bytes == size
    rng = random.Random(size)
    for _ in range(40):
        start = rng.randint(0, size)
        length = rng.randint(0, size - start)
        assert bytes(reader.read(start, length)) == data[start : start + length]
    assert refusal(lambda: reader.read(0, size + 1)).failure.code == "snapshot-corrupt"
    reader.close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/p"


def test_a_bucket_can_be_sealed_too(place: Place, bucket: str) -> None:
    mixed(place)
    place.write("large", noise(9 * MIB))
    place.store = SnapshotStore(bucket, workers=4, keys=KeyRing((NEW,)))
    stored = place.put()
    assert place.fetch(stored) == contents(place.images)
    manifest_digest = stored.manifest_digest
    other = SnapshotStore(bucket, keys=KeyRing((OTHER,)))
    assert refusal(lambda: other.open_manifest(KEY, SNAPSHOT, manifest_digest)).failure.code == "store-key-unknown"
    place.store.discard(KEY, SNAPSHOT)
    assert refusal(lambda: place.open(stored)).failure.code == "snapshot-missing"


SECRET = bytes(range(32))


@pytest.mark.parametrize(
    "text",
    [
        SECRET.hex(), SECRET.hex().upper() + "\n", base64.b64encode(SECRET).decode(),
        f"# the store's keys\n\n  {base64.b64encode(SECRET).decode()}  # of 2026\n{'00' * 32}\n",
    ],
)  # fmt: skip
def test_a_key_file_holds_keys_in_hex_or_base64(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    first = KeyRing.from_file(tmp_path / "keys").first
    assert first is not None
    assert first.id == StoreKey(SECRET).id


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "00" * 31, "no secret", "00" * 33, base64.b64encode(b"x" * 31).decode(), "ä"]
)
def test_a_key_file_without_a_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    failure = refusal(lambda: KeyRing.from_file(tmp_path / "keys")).failure
    assert failure.code == "store-key-unusable"
    if text.strip("# \n"):
        assert text not in failure.cause
    assert refusal(lambda: KeyRing.from_file(tmp_path / "none")).failure.code == "store-key-unusable"


def test_the_id_of_a_key_is_no_part_of_what_seals() -> None:
    key = StoreKey(SECRET)
    derived = {key.id, key.of_object(b"s" * 32)[:8], bytes.fromhex(key.name("a"))[:8], SECRET[:8]}
    derived.add(blake3(SECRET).digest(8))
    assert len(derived) == 5
    assert key.of_object(b"a" * 32) != key.of_object(b"b" * 32)
