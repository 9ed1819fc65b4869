"""Which store holds a snapshot: an empty directory, or another node's, proves nothing against it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from support.snapshots import HEADER, KEY, SNAPSHOT, refusal
from support.world import World, types

from controlplane.domain import SnapshotStatus
from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.agent.store_watch import StoreWatch
from nodeworker.capture.trees import list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.restore.fetch import Fetcher
from nodeworker.store import SnapshotStore, Stored
from nodeworker.store.identity import MARK
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import CommandFinished, CommandIssued, NodeRegistered, RestoreStage
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import CONDEMNING_CODES, Failure
from woodfrog.protocol.ids import CommandId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.manifest import TreeName
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(30)

MISSING = Failure(
    "snapshot-missing", "The object manifest.json is not in the snapshot store.", "Find out who removed it."
)
ONE = IncarnationNumber(1)


def facts(store: str | None) -> NodeFacts:
    return NodeFacts(store=store)


def two_nodes(a: str | None, b: str | None, *, snapshot: str | None) -> World:
    """A snapshot ``s1`` was put into a store by node a; the container has ended."""
    world = World()
    world.register("a", facts(a))
    world.register("b", facts(b))
    world.run("c1", "a", facts=facts(a))
    world.snapshot(1, "s1", final=True, taken_on=facts(snapshot))
    world.ended(1)
    return world


def missing_on_b(world: World, *, b: str | None, looked_in: str | None) -> None:
    """A start on node b is given the snapshot, and does not find it."""
    answer = world.ask("c2", "b", facts=facts(b)).answer
    assert isinstance(answer, RestoreFrom)
    world.restore_failed(answer.incarnation, "s1", MISSING, RestoreStage.FETCH, store=looked_in)


# What is decided


def test_a_snapshot_in_the_store_of_one_node_is_not_sought_in_that_of_another_and_is_still_there_for_the_first() -> (
    None
):
    world = two_nodes("A", "B", snapshot="A")
    answer = world.ask("c2", "b", facts=facts("B")).answer
    assert isinstance(answer, StartCold)
    assert "its bytes are in the store of node a" in answer.reason
    world.ended(2)
    assert isinstance(world.ask("c3", "a", facts=facts("A")).answer, RestoreFrom)


@pytest.mark.parametrize(
    ("a", "b", "snapshot", "looked_in", "condemned"),
    [
        ("A", "A", "A", "A", True),
        ("A", "A", "A", None, False),
        ("A", None, "A", None, False),
        ("A", None, "A", "B", False),
        (None, "B", None, "B", False),
        ("A", "B", None, "B", False),
        ("A", "A", None, "A", True),
        (None, None, None, None, False),
    ],
)
def test_what_is_missing_condemns_only_in_the_store_that_holds_it(
    a: str | None, b: str | None, snapshot: str | None, looked_in: str | None, condemned: bool
) -> None:
    world = two_nodes(a, b, snapshot=snapshot)
    missing_on_b(world, b=b, looked_in=looked_in)
    status = world.key.snapshots[SnapshotId("s1")].status
    assert status is (SnapshotStatus.INVALIDATED if condemned else SnapshotStatus.VALID)
    if not condemned:
        world.ended(2)
        assert isinstance(world.ask("c3", "a", facts=facts(a)).answer, RestoreFrom), "every byte lies there"


def deletions(world: World) -> list[DeleteCommand]:
    issued = [event.command for event, _ in world.log if isinstance(event, CommandIssued)]
    return [command for command in issued if isinstance(command, DeleteCommand)]


def test_a_snapshot_is_deleted_by_a_node_that_has_its_store_and_by_nobody_else() -> None:
    world = two_nodes("A", "B", snapshot="A")
    world.register("a2", facts("A"))
    world.silent("a")
    world.delete("s1")
    world.later(1)
    (command,) = deletions(world)
    assert (command.node, command.store) == ("a2", "A")
    world.silent("a2")
    world.later(400)
    world.later(400)
    assert deletions(world) == [command], "b would find nothing, and say that nothing is left"


def test_a_worker_whose_store_was_mounted_later_is_registered_with_it() -> None:
    world = World()
    world.register("a", facts(None))
    sign = Heartbeat(NodeName("a"), WorkerId("worker-a"), "boot", facts("A"))
    (event,) = world.heartbeat(sign).events
    assert isinstance(event, NodeRegistered)
    assert world.state.nodes[NodeName("a")].facts.store == "A"
    assert types(world.heartbeat(sign)) == []
    unreadable = Heartbeat(NodeName("a"), WorkerId("worker-a"), "boot", facts(None))
    assert types(world.heartbeat(unreadable)) == [], "it is still its store"


# What a worker does


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "inventory.img").write_bytes(b"images")
    return folder


class Place:
    """A store's directory on one node, that can be there or not."""

    def __init__(self, base: Path, name: str) -> None:
        self.state = base / name
        self.state.mkdir()
        self.mount = self.state / "mnt"
        self._away = self.state / "away"

    def store(self) -> SnapshotStore:
        """Open it, as a life of a worker does."""
        return SnapshotStore(self.mount.as_uri(), workers=1, remembered=self.state)

    def unmount(self) -> None:
        self.mount.rename(self._away)
        self.mount.mkdir()

    def mount_again(self) -> None:
        self.mount.rmdir()
        self._away.rename(self.mount)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "node-1")


def put(store: SnapshotStore, images: Path) -> Stored:
    return store.put(HEADER, [list_tree(TreeName.PROCESSES, images)])


def choice(stored: Stored) -> RestoreFrom:
    return RestoreFrom(incarnation=ONE, snapshot_id=SNAPSHOT, manifest_digest=stored.manifest_digest, reason="")


def no_spool(state: Path) -> SpooledCaptures:
    return SpooledCaptures(state / "spool", cast("Journal", None))


def fetched(store: SnapshotStore, stored: Stored, into: Path) -> tuple[Failure, str | None]:
    """What a worker would report of a fetch that fails."""
    fetcher = Fetcher(store, SnapshotCache(into / "copies", limit_bytes=0, limit_seconds=1), no_spool(into))
    failure = refusal(lambda: fetcher.fetch(KEY, choice(stored), into / "fetched")).failure
    return fetcher.confirm(KEY, choice(stored), failure)


def test_a_store_is_marked_once_however_many_begin_it_together(tmp_path: Path) -> None:
    stores = [SnapshotStore((tmp_path / "store").as_uri()) for _ in range(8)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda store=store: found.append(store.identity.read())) for store in stores]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert (tmp_path / "store" / MARK).read_text() == f"{found[0]}\n"
    assert (tmp_path / "store" / MARK).stat().st_mode & 0o777 == 0o600


def test_a_stored_snapshot_names_its_store(place: Place, images: Path) -> None:
    store = place.store()
    assert put(store, images).store == store.identity.read()


def test_an_empty_mount_point_says_so_and_condemns_nothing(place: Place, images: Path, tmp_path: Path) -> None:
    stored = put(place.store(), images)
    place.unmount()
    failure, looked_in = fetched(place.store(), stored, tmp_path)
    assert failure.code == "store-not-mounted"
    assert failure.code not in CONDEMNING_CODES
    assert looked_in is None
    assert list(place.mount.iterdir()) == [], "nothing is written where it would be hidden"


def test_nothing_is_stored_in_an_empty_mount_point_and_what_appears_later_is_used(place: Place, images: Path) -> None:
    known = place.store().identity.read()
    place.unmount()
    later = place.store()
    assert refusal(lambda: put(later, images)).failure.code == "store-not-mounted"
    assert later.identity.last == known, "it is still this node's store"
    place.mount_again()
    assert put(later, images).store == known


def test_another_file_system_at_the_same_place_is_another_store(place: Place, tmp_path: Path) -> None:
    first = place.store().identity.read()
    second = SnapshotStore((tmp_path / "other").as_uri()).identity.read()
    place.unmount()
    (place.mount / MARK).write_text(f"{second}\n")
    store = place.store()
    assert store.identity.read() == second != first


def test_what_was_removed_from_the_store_that_held_it_is_reported_with_the_store(
    place: Place, images: Path, tmp_path: Path
) -> None:
    store = place.store()
    stored = put(store, images)
    for pack in place.mount.rglob("*.pack"):
        pack.unlink()
    failure, looked_in = fetched(store, stored, tmp_path)
    assert (failure.code, looked_in) == ("snapshot-missing", stored.store)


def test_what_is_there_again_by_the_second_look_proves_nothing(place: Place, images: Path) -> None:
    store = place.store()
    stored = put(store, images)
    fetcher = Fetcher(
        store, SnapshotCache(place.state / "copies", limit_bytes=0, limit_seconds=1), no_spool(place.state)
    )
    assert fetcher.confirm(KEY, choice(stored), MISSING) == (MISSING, None)


@pytest.mark.parametrize("mark", [b"", b"../../../etc\n", b"x" * 1_000_000, b"\x1b[2J"])
def test_a_mark_that_holds_no_identity_is_refused(place: Place, mark: bytes) -> None:
    place.mount.mkdir()
    (place.mount / MARK).write_bytes(mark)
    assert refusal(place.store().identity.read).failure.code == "store-mark-invalid"


def test_two_nodes_with_a_directory_each_lose_nothing(tmp_path: Path, images: Path) -> None:
    """poc/condemn.py: the chart's default store is a directory of each node's own."""
    a, b = (Place(tmp_path, name).store() for name in ("node-a", "node-b"))
    stored = put(a, images)
    world = two_nodes(a.identity.read(), b.identity.read(), snapshot=stored.store)
    there = facts(b.identity.last)
    assert isinstance(world.ask("c2", "b", facts=there).answer, StartCold)
    world.ended(2)
    back = world.ask("c3", "a", facts=facts(a.identity.last)).answer
    assert isinstance(back, RestoreFrom)
    a.open_manifest(KEY, SNAPSHOT, stored.manifest_digest)


async def test_a_file_system_that_is_mounted_late_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeworker.agent.store_watch._EVERY_SECONDS", 0.01)
    known = await asyncio.to_thread(place.store().identity.read)
    place.unmount()
    store = await asyncio.to_thread(lambda: SnapshotStore(place.mount.as_uri(), remembered=place.state / "nowhere"))
    (place.mount / MARK).write_text("not yet\n")
    watch = StoreWatch(store.identity)
    await watch.look()
    assert watch.add_to(NodeFacts()).store is None
    task = asyncio.create_task(watch.run())
    (place.mount / MARK).unlink()
    place.mount_again()
    while watch.add_to(NodeFacts()).store != known:  # noqa: ASYNC110 -- the test's time is the bound
        await asyncio.sleep(0.01)
    task.cancel()


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    opened = Journal(place.state / "journal", node=NodeName("node-1"), worker_id=WorkerId("life"))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("mounted", "store", "code"), [(False, None, "store-not-mounted"), (True, "other", "store-differs")]
)
async def test_nothing_is_called_deleted_in_a_store_that_is_not_there_or_another(
    place: Place, images: Path, journal: Journal, mounted: bool, store: str | None, code: str
) -> None:
    stored = await asyncio.to_thread(lambda: put(place.store(), images))
    if not mounted:
        place.unmount()
    none = SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1)
    executor = CommandExecutor(journal, cast("Dumper", None), cast("SnapshotUploader", None), place.store(), none)
    now = datetime.now(UTC)
    deadline = now + timedelta(seconds=60)
    await executor.obey(
        DeleteCommand(
            CommandId("d"), NodeName("node-1"), KEY, ONE, SNAPSHOT, now, deadline, store=store or stored.store
        )
    )
    ((_, report),) = journal.outbox()
    assert isinstance(report.event, CommandFinished)
    assert report.event.failure is not None
    assert report.event.failure.code == code
    if not mounted:
        place.mount_again()
    place.store().open_manifest(KEY, SNAPSHOT, stored.manifest_digest)
