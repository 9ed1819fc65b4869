"""How a ``create`` is answered, with a control plane that says what a test wants it to say and a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from nodeworker.bus import Bus
from nodeworker.capture.trees import list_tree
from nodeworker.journal import ContainerState, Journal
from nodeworker.restore import Restorer
from nodeworker.settings import Settings, from_environment
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from protocol.events import ContainerEnded, ContainerStarted, RestoreFailed, RestoreStage
from protocol.facts import ContainerFacts, NodeFacts
from protocol.failures import Failure
from protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId, WorkerId
from protocol.local import AskCreate, CreateCold, CreateRestored, Refused
from protocol.manifest import TreeName
from protocol.requests import Refusal, Resolution, ResolveRequest, RestoreFrom, StartCold, WaitFor

pytestmark = pytest.mark.timeout(20)

ONE = IncarnationNumber(1)
COLD = StartCold(incarnation=ONE, reason="nothing is stored")
FACTS = NodeFacts(criu_version="4.1.1")
KEY = CheckpointKey("local", "default", "job")


class SayingBus:
    """Answers each question by the next of ``answers``, and the last one for ever; without any, never."""

    def __init__(self, *answers: Resolution) -> None:
        self.answers = list(answers)
        self.asked: list[ResolveRequest] = []

    async def resolve(self, ask: Callable[[int], ResolveRequest]) -> Resolution:
        self.asked.append(ask(7))
        if not self.answers:
            await asyncio.Event().wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment(
        {
            "WOODFROG_NODE": "node-1",
            "WOODFROG_STATE_DIR": str(tmp_path / "state"),
            "WOODFROG_RUN_DIR": str(tmp_path / "run"),
            "WOODFROG_CREATE_LIMIT_SECONDS": "2",
        }
    )


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    settings.state_dir.mkdir()
    opened = Journal(settings.journal, node=settings.node, worker_id=WorkerId("life-1"))
    yield opened
    opened.close()


@pytest.fixture
def store(settings: Settings, journal: Journal) -> SnapshotStore:
    return SnapshotStore(settings.store_url)


@pytest.fixture
def restorer(settings: Settings, journal: Journal, store: SnapshotStore) -> Callable[[SayingBus], Restorer]:
    def make(bus: SayingBus) -> Restorer:
        return Restorer(settings, journal, cast("Bus", bus), store, worker_id=WorkerId("life-1"), facts=FACTS)

    return make


@pytest.fixture
def ask(tmp_path: Path) -> AskCreate:
    (tmp_path / "bundle" / "rootfs").mkdir(parents=True)
    config: dict[str, Any] = {"root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc"}]}
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(config))
    return AskCreate(ContainerId("c1"), str(tmp_path / "bundle"), "/run/runc", "job")


@pytest.fixture
def stored(tmp_path: Path, store: SnapshotStore) -> RestoreFrom:
    images = tmp_path / "images"
    images.mkdir()
    (images / "inventory.img").write_bytes(b"images")
    header = ManifestHeader(
        SnapshotId("20261123T120000Z-00000001"), KEY, ONE, datetime.now(UTC), FACTS, ContainerFacts(), stopped_pids=(4,)
    )
    digest = store.put(header, [list_tree(TreeName.PROCESSES, images)]).manifest_digest
    return RestoreFrom(incarnation=ONE, snapshot_id=header.snapshot_id, manifest_digest=digest, reason="the newest")


def events(journal: Journal) -> list[Any]:
    return [report.event for _, report in journal.outbox()]


async def test_a_cold_start_gets_its_configuration_and_a_record(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate
) -> None:
    bus = SayingBus(COLD)
    made = restorer(bus)
    answer = await made.create(ask)
    assert isinstance(answer, CreateCold)
    assert "tcp-close" in await asyncio.to_thread(Path(answer.criu_config).read_text)
    assert bus.asked[0].key == KEY
    assert bus.asked[0].reports_sequence == 7
    assert bus.asked[0].container.mounts == ("/proc",)
    await made.started(ask.container_id)
    (told,) = events(journal)
    assert isinstance(told, ContainerStarted)
    assert told.restored_from is None
    assert told.create_seconds is not None


async def test_a_start_waits_as_long_as_it_is_told_to(
    restorer: Callable[[SayingBus], Restorer], ask: AskCreate
) -> None:
    wait = WaitFor(incarnation=ONE, waiting_for="the last dump", until=datetime.now(UTC) + timedelta(seconds=60))
    bus = SayingBus(wait, wait, COLD)
    assert isinstance(await restorer(bus).create(ask), CreateCold)
    assert len(bus.asked) == 3


async def test_a_snapshot_is_fetched_and_verified_before_the_answer(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate, stored: RestoreFrom
) -> None:
    made = restorer(SayingBus(stored))
    answer = await made.create(ask)
    assert isinstance(answer, CreateRestored)
    images = Path(answer.image_path)
    assert await asyncio.to_thread((images / "inventory.img").read_bytes) == b"images"
    assert answer.stopped_pids == (4,)
    assert "leave-stopped" in await asyncio.to_thread(Path(answer.criu_config).read_text)
    await made.started(ask.container_id)
    (told,) = events(journal)
    assert told.restored_from == stored.snapshot_id
    await made.close()
    assert not await asyncio.to_thread(images.exists), "nobody waits for it, but the worker does before it ends"


async def test_a_corrupt_snapshot_is_told_and_the_next_best_way_is_taken(
    restorer: Callable[[SayingBus], Restorer], settings: Settings, journal: Journal, ask: AskCreate, stored: RestoreFrom
) -> None:
    def damage() -> None:
        for path in (settings.state_dir / "store").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])

    await asyncio.to_thread(damage)
    answer = await restorer(SayingBus(stored, COLD)).create(ask)
    assert isinstance(answer, CreateCold)
    (told,) = events(journal)
    assert isinstance(told, RestoreFailed)
    assert (told.stage, told.failure.code) == (RestoreStage.FETCH, "snapshot-corrupt")


async def test_a_silent_control_plane_ends_in_a_refusal_that_says_so(
    restorer: Callable[[SayingBus], Restorer], ask: AskCreate
) -> None:
    answer = await restorer(SayingBus()).create(ask)
    assert isinstance(answer, Refused)
    assert answer.failure.code == "start-timeout"
    assert "control plane does not answer" in answer.failure.cause


async def test_an_endless_wait_ends_in_a_refusal_that_says_for_what(
    restorer: Callable[[SayingBus], Restorer], ask: AskCreate
) -> None:
    wait = WaitFor(incarnation=ONE, waiting_for="the last dump", until=datetime.now(UTC) + timedelta(seconds=60))
    answer = await restorer(SayingBus(wait)).create(ask)
    assert isinstance(answer, Refused)
    assert "the last dump" in answer.failure.cause


async def test_a_refusal_of_the_control_plane_is_passed_on_and_leaves_no_record(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate
) -> None:
    failure = Failure("superseded", "a newer one runs", "Stop this one.")
    assert await restorer(SayingBus(Refusal(failure=failure))).create(ask) == Refused(failure)
    assert journal.containers() == []


@pytest.mark.parametrize("bad", ["", "..", "a/b", "x" * 300, "tab\there", "line\nbreak", "-dash", "dot."])
async def test_an_id_that_may_not_be_one_is_refused_with_the_rule(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate, bad: str
) -> None:
    answer = await restorer(SayingBus(COLD)).create(AskCreate(ask.container_id, ask.bundle, ask.runc_root, bad))
    assert isinstance(answer, Refused)
    assert answer.failure.code == "invalid-id"
    assert "an id is 1 to 253 letters" in answer.failure.cause
    assert journal.containers() == []


@pytest.mark.parametrize("bad", ["", ".", "..", "../c1", "a/b"])
async def test_a_container_id_never_becomes_a_path_elsewhere(
    restorer: Callable[[SayingBus], Restorer], ask: AskCreate, bad: str
) -> None:
    answer = await restorer(SayingBus(COLD)).create(AskCreate(ContainerId(bad), ask.bundle, ask.runc_root, "job"))
    assert isinstance(answer, Refused)
    assert answer.failure.code == "invalid-container-id"


async def test_a_name_that_the_engine_uses_again_ends_the_container_before(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    await made.started(ask.container_id)
    await made.create(ask)
    assert [type(event) for event in events(journal)] == [ContainerStarted, ContainerEnded]
    (record,) = journal.containers()
    assert record.state is ContainerState.CREATED


async def test_an_end_is_told_once_with_its_exit_code(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: AskCreate
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    await made.ended(ask.container_id, 3)
    await made.ended(ask.container_id, 3)
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert told.exit_code == 3
