"""A node that was broken into holds the store's key and reads no snapshot with it: each has a key of its own, given out with the decision."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data_keys import write_pair
from support.servers import ControlPlaneProcess, NatsServer
from support.snapshots import HEADER, KEY, SNAPSHOT, Place, contents, mixed, noise
from support.worker import CONTAINER, FACTS, Worker, ask, query, snapshot_name, stored_messages
from support.worker import KEY as ID

from nodeworker.settings import from_environment
from nodeworker.store import KeyRing, SnapshotStore
from nodeworker.store.encryption_keys import StoreKey
from woodfrog.protocol import subjects
from woodfrog.protocol.failures import CONDEMNING_CODES, DATA_KEY_MISSING, PASSING_CODES, FailureError
from woodfrog.protocol.ids import ContainerId, SnapshotId
from woodfrog.protocol.requests import Resolution, ResolveRequest, RestoreFrom
from woodfrog.service.data_keys import WRAPPED_BYTES, DataKeyError, Recipient, Unwrapper, from_text, purpose, to_text
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.nats import connect

pytestmark = pytest.mark.timeout(120)

SECRET = b"s" * 32
USE = purpose(KEY, SNAPSHOT)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Unwrapper, Recipient]:
    private, public = write_pair(tmp_path)
    return Unwrapper.from_file(private), Recipient.from_file(public)


def opened(place: Place, recipient: Recipient | None = None) -> SnapshotStore:
    return SnapshotStore(place.root.as_uri(), workers=2, keys=KeyRing((StoreKey(SECRET),)), recipient=recipient)


@pytest.fixture
def place(tmp_path: Path, pair: tuple[Unwrapper, Recipient]) -> Place:
    made = Place(tmp_path)
    made.store = opened(made, pair[1])
    return made


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(FailureError) as refusal:
        act()
    return refusal.value.failure.code


def test_only_who_was_given_its_key_reads_a_snapshot(place: Place, pair: tuple[Unwrapper, Recipient]) -> None:
    mixed(place)
    stored = place.put()
    place.store = opened(place, pair[1])  # another node, with the same file of keys
    assert refused(lambda: place.open(stored)) == DATA_KEY_MISSING
    assert DATA_KEY_MISSING in PASSING_CODES
    assert DATA_KEY_MISSING not in CONDEMNING_CODES

    place.store.unlock(KEY, SNAPSHOT, os.urandom(32))
    assert refused(lambda: place.open(stored)) == "snapshot-corrupt"

    place.store = opened(place, pair[1])
    place.store.unlock(KEY, SNAPSHOT, pair[0].unwrap(place.store.locked(KEY, SNAPSHOT), USE))
    assert place.store.locked(KEY, SNAPSHOT) == b""
    assert place.fetch(stored) == contents(place.images)


def test_the_worker_that_put_it_forgets_its_key(place: Place) -> None:
    place.write("a", noise(1000))
    stored = place.put()
    assert len(place.store.locked(KEY, SNAPSHOT)) == WRAPPED_BYTES
    assert refused(lambda: place.open(stored)) == DATA_KEY_MISSING


def test_two_snapshots_have_two_keys_and_what_is_wrapped_for_one_is_of_no_use_for_the_other(
    place: Place, pair: tuple[Unwrapper, Recipient]
) -> None:
    place.write("a", noise(1000))
    place.put()
    other = SnapshotId("20261123T214502Z-5f3a9c1e")
    place.store.put(dataclasses.replace(HEADER, snapshot_id=other), [place.listed()])
    first, second = (place.store.locked(KEY, each) for each in (SNAPSHOT, other))
    assert pair[0].unwrap(first, USE) != pair[0].unwrap(second, purpose(KEY, other))
    with pytest.raises(DataKeyError):
        pair[0].unwrap(first, purpose(KEY, other))


def test_a_changed_wrapping_and_another_key_unwrap_nothing(tmp_path: Path, pair: tuple[Unwrapper, Recipient]) -> None:
    wrapped = pair[1].wrap(b"k" * 32, USE)
    assert pair[0].unwrap(wrapped, USE) == b"k" * 32
    for place in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[place] ^= 1
        with pytest.raises(DataKeyError):
            pair[0].unwrap(bytes(changed), USE)
    for cut in (b"", wrapped[:8], wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(DataKeyError):
            pair[0].unwrap(cut, USE)
    stranger, _ = write_pair(tmp_path, "other")
    with pytest.raises(DataKeyError, match="not here"):
        Unwrapper.from_file(stranger).unwrap(wrapped, USE)


def test_a_worker_of_an_earlier_version_lacks_a_key_and_condemns_nothing(place: Place) -> None:
    place.write("a", noise(1000))
    stored = place.put()
    place.store = opened(place)
    earlier = place.store._objects._ring
    earlier.with_data_keys = ()  # as one that knows of none
    code = refused(lambda: place.open(stored))
    assert code == "store-key-unknown"
    assert code not in CONDEMNING_CODES


def test_snapshots_from_before_are_read_and_all_are_removed_without_their_keys(
    place: Place, pair: tuple[Unwrapper, Recipient]
) -> None:
    place.write("a", noise(1000))
    place.store = opened(place)
    before = place.put()
    place.store = opened(place, pair[1])
    assert place.fetch(before) == contents(place.images)
    place.put()
    opened(place).discard(KEY, SNAPSHOT)
    assert not list(place.root.rglob("*.pack"))
    assert not list(place.root.rglob("manifest.json"))


def test_a_recipient_needs_the_keys_of_the_store() -> None:
    with pytest.raises(InvalidSettingError, match="needs both"):
        from_environment({"WOODFROG_DATA_KEY_RECIPIENT_FILE": "/r"})
    said = from_environment({"WOODFROG_DATA_KEY_RECIPIENT_FILE": "/r", "WOODFROG_STORE_KEY_FILE": "/k"})
    assert said.data_key_recipient_file == Path("/r")


def test_files_that_hold_no_such_keys_are_refused_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    for read in (Unwrapper.from_file, Recipient.from_file):
        for path in (file, tmp_path / "none"):
            with pytest.raises(DataKeyError) as refusal:
                read(path)
            assert "c2VjcmV0" not in str(refusal.value)


def test_private_keys_from_before_open_what_was_wrapped_then(tmp_path: Path) -> None:
    old, old_public = write_pair(tmp_path, "old")
    new, _ = write_pair(tmp_path, "new")
    both = tmp_path / "both"
    both.write_bytes(new.read_bytes() + old.read_bytes())
    wrapped = Recipient.from_file(old_public).wrap(b"k" * 32, USE)
    assert Unwrapper.from_file(both).unwrap(wrapped, USE) == b"k" * 32


@pytest.mark.nats
async def test_the_key_comes_with_the_decision_for_this_very_snapshot_and_is_written_nowhere(tmp_path: Path) -> None:
    private, public = write_pair(tmp_path)
    recipient = Recipient.from_file(public)
    server = NatsServer(tmp_path / "nats")
    server.start()
    plane = ControlPlaneProcess(
        tmp_path, server.url, WOODFROG_DATA_KEY_FILE=str(private), WOODFROG_NODE_LOST_SECONDS="600"
    )
    client = await connect(server.url, name="test")
    try:
        await asyncio.to_thread(plane.start)
        worker = Worker(client)
        await worker.register()
        await worker.run_container("first")
        name = SnapshotId(snapshot_name(1))
        await worker.say(*worker.snapshot(name, final=True))
        await worker.taken_in()

        chosen = await question(worker, "")
        assert (chosen.snapshot_id, chosen.data_key) == (name, "")
        wrapped = recipient.wrap(b"k" * 32, purpose(ID, name))
        assert from_text((await question(worker, to_text(wrapped))).data_key) == b"k" * 32
        others = recipient.wrap(b"v" * 32, purpose(ID, SnapshotId(snapshot_name(2))))
        for wrong in (to_text(others), to_text(wrapped[:-1]), "no base64", "A" * 400):
            again = await question(worker, wrong)
            assert (again.snapshot_id, again.data_key) == (name, "")

        secret = to_text(b"k" * 32)
        events = await query(client, "events", limit=10_000)
        assert secret not in str(events)
        assert len([row for row in events if row["type"] == "incarnation.restore-chosen"]) == 1
        streams = (subjects.AUDIT_STREAM, subjects.REPORTS_STREAM, subjects.COMMANDS_STREAM)
        held = [message.data for stream in streams for message in await stored_messages(client, stream)]
        assert not [data for data in held if secret.encode() in (data or b"")]
        assert secret not in plane.text()
    finally:
        await client.close()
        plane.close()
        server.close()


async def question(worker: Worker, wrapped: str) -> RestoreFrom:
    request = ResolveRequest(
        ID, ContainerId("second"), worker.node, worker.worker_id, FACTS, CONTAINER, worker.sequence, wrapped_key=wrapped
    )
    answer: Resolution = await ask(worker.client, subjects.resolve(worker.node), request, Resolution)
    assert isinstance(answer, RestoreFrom), answer
    return answer
