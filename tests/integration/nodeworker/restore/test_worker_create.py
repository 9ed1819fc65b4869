"""How a ``create`` is answered, with a control plane that says what a test wants it to say and a real store."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from support.data_keys import write_pair

from nodeworker.bus import Bus
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.capture.trees import list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.journal import ContainerState, Journal
from nodeworker.restore.fetch import Fetcher
from nodeworker.restore.gpu_restore import GpuRestore
from nodeworker.restore.restore import Restorer
from nodeworker.runtime.container import Marker
from nodeworker.settings import Settings, from_environment
from nodeworker.store.encryption import SealedObjects
from nodeworker.store.encryption_keys import KeyRing, StoreKey
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from woodfrog.protocol.events import ContainerEnded, ContainerStarted, RestoreFailed, RestoreStage
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import DATA_KEY_MISSING, KUBERNETES_UNREACHABLE, PASSING_CODES, Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId, WorkerId
from woodfrog.protocol.manifest import EnvironmentMarks, TreeName
from woodfrog.protocol.requests import (
    GIVEN_UP_VERSION,
    Refusal,
    Resolution,
    ResolveRequest,
    RestoreFrom,
    StartCold,
    WaitFor,
)
from woodfrog.protocol.runtime_api import (
    CreateCold,
    CreateRequest,
    CreateRestored,
    Done,
    ProofRequest,
    Refused,
    RestoreFailedNotification,
)
from woodfrog.service.data_keys import Recipient, Unwrapper, purpose, to_text

pytestmark = pytest.mark.timeout(20)

ONE = IncarnationNumber(1)
COLD = StartCold(incarnation=ONE, reason="nothing is stored")
FACTS = NodeFacts(criu_version="4.1.1")
KEY = CheckpointKey("local", "default", "job")


class SayingBus:
    """Answers each question by the next of ``answers``, and the last one for ever; without any, never."""

    def __init__(self, *answers: Resolution) -> None:
        self.reports_refused = 0
        self.answers = list(answers)
        self.asked: list[ResolveRequest] = []

    async def resolve(
        self, ask: Callable[[int], ResolveRequest], may_be_heard: asyncio.Event | None = None
    ) -> Resolution:
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
            "WOODFROG_PRIVILEGES": "snapshot",  # the images here are none of CRIU's
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
def copies(settings: Settings) -> SnapshotCache:
    return SnapshotCache(settings.copies, limit_bytes=1 << 30, limit_seconds=3600)


@pytest.fixture
def restorer(
    settings: Settings, journal: Journal, store: SnapshotStore, copies: SnapshotCache
) -> Callable[[SayingBus], Restorer]:
    def make(bus: SayingBus) -> Restorer:
        fetcher = Fetcher(store, copies, SpooledCaptures(settings.spool, journal))
        runc = Runc(Path("/bin/runc"), Path("/bin/criu"))
        gpus = GpuRestore(journal, runc, cast("Cuda", None), FACTS)  # a node that has none
        return Restorer(
            settings, journal, cast("Bus", bus), fetcher, runc, gpus,
            worker_id=WorkerId("life-1"), facts=FACTS, criu_config=CriuConfig("4.2.1"),
        )  # fmt: skip

    return make


@pytest.fixture
def ask(tmp_path: Path) -> CreateRequest:
    (tmp_path / "bundle" / "rootfs").mkdir(parents=True)
    config: dict[str, Any] = {"root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc"}]}
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(config))
    return CreateRequest(ContainerId("c1"), str(tmp_path / "bundle"), "/run/runc", "job")


@pytest.fixture
def stored(tmp_path: Path, store: SnapshotStore) -> RestoreFrom:
    images = tmp_path / "spool" / "images"
    images.mkdir(parents=True)
    (images / "inventory.img").write_bytes(b"images")
    (images / "pages-1.img").write_bytes(b"memory")
    header = ManifestHeader(
        SnapshotId("20261123T120000Z-00000001"), KEY, ONE, datetime.now(UTC), FACTS, ContainerFacts(), stopped_pids=(4,)
    )
    digest = store.put(header, [list_tree(TreeName.PROCESSES, images)]).manifest_digest
    return RestoreFrom(incarnation=ONE, snapshot_id=header.snapshot_id, manifest_digest=digest, reason="the newest")


def events(journal: Journal) -> list[Any]:
    return [report.event for _, report in journal.outbox()]


async def test_a_cold_start_gets_its_configuration_and_a_record(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
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
    restorer: Callable[[SayingBus], Restorer], ask: CreateRequest
) -> None:
    wait = WaitFor(incarnation=ONE, waiting_for="the last dump", until=datetime.now(UTC) + timedelta(seconds=60))
    bus = SayingBus(wait, wait, COLD)
    assert isinstance(await restorer(bus).create(ask), CreateCold)
    assert len(bus.asked) == 3


async def test_a_snapshot_is_fetched_and_verified_before_the_answer(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, stored: RestoreFrom
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
    restorer: Callable[[SayingBus], Restorer],
    settings: Settings,
    journal: Journal,
    ask: CreateRequest,
    stored: RestoreFrom,
) -> None:
    def shorten() -> None:
        for path in (settings.state_dir / "store").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])

    await asyncio.to_thread(shorten)
    answer = await restorer(SayingBus(stored, COLD)).create(ask)
    assert isinstance(answer, CreateCold)
    (told,) = events(journal)
    assert isinstance(told, RestoreFailed)
    assert (told.stage, told.failure.code) == (RestoreStage.FETCH, "snapshot-corrupt")


@pytest.fixture
def copied(tmp_path: Path, stored: RestoreFrom, store: SnapshotStore, copies: SnapshotCache) -> Path:
    """The folder of a copy on this node."""
    identity = (KEY, stored.snapshot_id)
    copies.take_over(
        Spool(tmp_path / "spool"), *identity, lambda: store.read_manifest(*identity, stored.manifest_digest)
    )
    (folder,) = copies.folder.glob(f"**/{stored.snapshot_id}")
    return folder


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_a_copy_on_the_node_restores_what_the_store_has_lost(
    restorer: Callable[[SayingBus], Restorer], settings: Settings, ask: CreateRequest, stored: RestoreFrom, copied: Path
) -> None:
    await asyncio.to_thread(shutil.rmtree, settings.state_dir / "store")
    made = restorer(SayingBus(stored))
    answer = await made.create(ask)
    assert isinstance(answer, CreateRestored)
    assert answer.unproved
    assert await asyncio.to_thread((Path(answer.image_path) / "pages-1.img").read_bytes) == b"memory"
    assert await made.proved(ProofRequest(ask.container_id)) == Done()
    await made.started(ask.container_id)
    await made.close()
    assert await asyncio.to_thread((copied / "images" / "pages-1.img").exists), "it is there for the next start"


@pytest.mark.parametrize("name", ["images/inventory.img", "manifest.json"])
async def test_what_criu_interprets_is_proved_before_it_is_handed_on(
    restorer: Callable[[SayingBus], Restorer],
    journal: Journal,
    ask: CreateRequest,
    stored: RestoreFrom,
    copied: Path,
    name: str,
) -> None:
    await asyncio.to_thread(damage, copied / name)
    answer = await restorer(SayingBus(stored)).create(ask)
    assert isinstance(answer, CreateRestored), "the store has it"
    assert not answer.unproved
    assert await asyncio.to_thread((Path(answer.image_path) / "inventory.img").read_bytes) == b"images"
    assert events(journal) == [], "the snapshot is not to blame"


async def test_memory_that_proves_broken_is_refused_and_then_taken_from_the_store(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, stored: RestoreFrom, copied: Path
) -> None:
    await asyncio.to_thread(damage, copied / "images" / "pages-1.img")
    made = restorer(SayingBus(stored))
    assert isinstance(await made.create(ask), CreateRestored)
    refused = await made.proved(ProofRequest(ask.container_id))
    assert isinstance(refused, Refused)
    assert refused.failure.code == "local-copy-broken"
    answer = await made.restore_failed(RestoreFailedNotification(ask.container_id, refused.failure.cause))
    assert isinstance(answer, CreateRestored)
    assert not answer.unproved
    assert await asyncio.to_thread((Path(answer.image_path) / "pages-1.img").read_bytes) == b"memory"
    assert events(journal) == [], "the snapshot is not to blame"


async def test_nobody_may_run_whose_proof_went_down_with_the_worker(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, stored: RestoreFrom, copied: Path
) -> None:
    assert isinstance(await restorer(SayingBus(stored)).create(ask), CreateRestored)
    heir = restorer(SayingBus(stored))
    refused = await heir.proved(ProofRequest(ask.container_id))
    assert isinstance(refused, Refused)
    assert isinstance(
        await heir.restore_failed(RestoreFailedNotification(ask.container_id, "unproved")), CreateRestored
    )
    assert events(journal) == [], "the snapshot is not to blame"


async def test_a_silent_control_plane_ends_in_a_refusal_that_says_so(
    restorer: Callable[[SayingBus], Restorer], ask: CreateRequest
) -> None:
    answer = await restorer(SayingBus()).create(ask)
    assert isinstance(answer, Refused)
    assert answer.failure.code == "start-timeout"
    assert "control plane does not answer" in answer.failure.cause


async def test_an_endless_wait_ends_in_a_refusal_that_says_for_what(
    restorer: Callable[[SayingBus], Restorer], ask: CreateRequest
) -> None:
    wait = WaitFor(incarnation=ONE, waiting_for="the last dump", until=datetime.now(UTC) + timedelta(seconds=60))
    answer = await restorer(SayingBus(wait)).create(ask)
    assert isinstance(answer, Refused)
    assert "the last dump" in answer.failure.cause


def with_variables(ask: CreateRequest, **variables: str) -> CreateRequest:
    file = Path(ask.bundle) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"process": {"env": [f"{name}={value}" for name, value in variables.items()]}}))
    return ask


async def test_a_process_that_goes_on_with_an_old_variable_is_told_of_in_every_later_start(
    restorer: Callable[[SayingBus], Restorer],
    journal: Journal,
    store: SnapshotStore,
    ask: CreateRequest,
    stored: RestoreFrom,
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(with_variables(ask, DB_PASSWORD="old", MODE="fast"))
    await made.started(ask.container_id)
    first = journal.container(ask.container_id)
    assert first is not None
    await made.ended(ask.container_id)
    marks = first.environment
    assert marks is not None
    assert list(marks.digests) == ["the container's command", "DB_PASSWORD", "MODE"]
    for turn in range(2):  # the second is restored from a dump of the first
        again = await asyncio.to_thread(stored_with, store, stored, marks, turn)
        made = restorer(SayingBus(again))
        await made.create(with_variables(ask, DB_PASSWORD="new", MODE="fast"))
        await made.started(ask.container_id)
        record = journal.container(ask.container_id)
        assert record is not None
        assert record.environment == marks, "the process still has what it was started with"
        (started,) = [event for event in events(journal) if isinstance(event, ContainerStarted)][-1:]
        assert started.warnings == ("DB_PASSWORD changed since the snapshot; the process has the old value",)
        await made.ended(ask.container_id)


def stored_with(store: SnapshotStore, stored: RestoreFrom, marks: EnvironmentMarks, turn: int) -> RestoreFrom:
    """Store a snapshot whose processes were started with these variables."""
    name = SnapshotId(f"20261123T13000{turn}Z-00000001")
    header = ManifestHeader(name, KEY, ONE, datetime.now(UTC), FACTS, ContainerFacts(), environment=marks)
    return RestoreFrom(
        incarnation=stored.incarnation,
        snapshot_id=name,
        manifest_digest=store.put(header, []).manifest_digest,
        reason="",
    )


async def test_a_refusal_of_the_control_plane_is_passed_on_and_leaves_no_record(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    failure = Failure("superseded", "a newer one runs", "Stop this one.")
    assert await restorer(SayingBus(Refusal(failure=failure))).create(ask) == Refused(failure)
    assert journal.containers() == []


async def test_a_start_is_asked_for_again_while_nobody_can_say_where_the_pod_is(
    restorer: Callable[[SayingBus], Restorer], ask: CreateRequest
) -> None:
    away = Refusal(failure=Failure(KUBERNETES_UNREACHABLE, "the API does not answer", "Look at it."))
    bus = SayingBus(away, away, COLD)
    assert isinstance(await restorer(bus).create(ask), CreateCold)
    assert len(bus.asked) == 3
    answer = await restorer(SayingBus(away)).create(ask)
    assert isinstance(answer, Refused)
    assert (answer.failure.code, "the API does not answer" in answer.failure.cause) == ("start-timeout", True)


async def test_a_start_beyond_the_quota_runs_without_protection(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    full = Refusal(failure=Failure("quota", "the namespace has 10 ids, of 10 that it may have", "Let some go."))
    answer = await restorer(SayingBus(full)).create(ask)
    assert isinstance(answer, CreateCold)
    assert "not protected" in answer.reason
    assert journal.container(ask.container_id) is None, "a stop signal finds nothing to dump"


@pytest.mark.parametrize("bad", ["", "..", "a/b", "x" * 300, "tab\there", "line\nbreak", "-dash", "dot."])
async def test_an_id_that_may_not_be_one_is_refused_with_the_rule(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, bad: str
) -> None:
    answer = await restorer(SayingBus(COLD)).create(CreateRequest(ask.container_id, ask.bundle, ask.runc_root, bad))
    assert isinstance(answer, Refused)
    assert answer.failure.code == "invalid-id"
    assert "an id is 1 to 253 letters" in answer.failure.cause
    assert journal.containers() == []


@pytest.mark.parametrize("bad", ["", ".", "..", "../c1", "a/b"])
async def test_a_container_id_never_becomes_a_path_elsewhere(
    restorer: Callable[[SayingBus], Restorer], ask: CreateRequest, bad: str
) -> None:
    answer = await restorer(SayingBus(COLD)).create(CreateRequest(ContainerId(bad), ask.bundle, ask.runc_root, "job"))
    assert isinstance(answer, Refused)
    assert answer.failure.code == "invalid-container-id"


async def test_a_name_that_the_engine_uses_again_ends_the_container_before(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    await made.started(ask.container_id)
    await made.create(ask)
    assert [type(event) for event in events(journal)] == [ContainerStarted, ContainerEnded]
    (record,) = journal.containers()
    assert record.state is ContainerState.CREATED


async def soon(what: Callable[[], object]) -> None:
    for _ in range(1000):
        if what():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


def assert_it_came_to_nothing(journal: Journal) -> None:
    """One thing was reported: that the start with the number 1 never ran."""
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert (told.incarnation, told.never_ran) == (ONE, True)


WAITS = WaitFor(incarnation=ONE, waiting_for="a dump", until=datetime(2100, 1, 1, tzinfo=UTC))


async def test_a_start_that_is_given_up_while_it_waits_came_to_nothing(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    bus = SayingBus(WAITS)
    made = restorer(bus)
    create = asyncio.create_task(made.creates.carry_out(ask.container_id, made.create(ask)))
    await soon(lambda: len(bus.asked) > 1)
    await made.ended(ask.container_id, 0)
    assert create.done()
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert (told.incarnation, told.never_ran, told.exit_code) == (ONE, True, None)


class MuteBus(SayingBus):
    """Answers once it is let; says before whether a control plane may have heard the question."""

    def __init__(self, *answers: Resolution, heard: bool) -> None:
        super().__init__(*answers)
        self.heard = heard
        self.let = asyncio.Event()
        self.cancelled = False

    async def resolve(
        self, ask: Callable[[int], ResolveRequest], may_be_heard: asyncio.Event | None = None
    ) -> Resolution:
        if self.heard and may_be_heard is not None:
            may_be_heard.set()
        try:
            answer = await super().resolve(ask)
            await self.let.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return answer


async def given_up(made: Restorer, bus: MuteBus, ask: CreateRequest) -> None:
    create = asyncio.create_task(made.creates.carry_out(ask.container_id, made.create(ask)))
    await soon(lambda: bus.asked)
    await made.ended(ask.container_id)
    assert create.done()


SUPERSEDED = Refusal(failure=Failure("superseded", "a newer one runs", "Stop this one."), incarnation=ONE)


async def test_a_start_that_is_refused_after_it_was_opened_came_to_nothing(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    assert isinstance(await restorer(SayingBus(SUPERSEDED)).create(ask), Refused)
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert (told.incarnation, told.never_ran, journal.containers()) == (ONE, True, [])


OVER = Refusal(failure=Failure("start-given-up", "this start is over", "Create it again."))
BUSY = Refusal(failure=Failure("node-busy", "too many questions", "Ask again."))


async def test_the_next_life_of_a_worker_finds_out_which_start_was_given_up_before_its_number_was_known(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    mute = MuteBus(COLD, heard=True)
    killed = restorer(mute)
    await given_up(killed, mute, ask)
    await killed.close()
    assert (events(journal), journal.containers(), len(journal.given_up())) == ([], [], 1)
    bus = SayingBus(BUSY, msgspec.structs.replace(OVER, incarnation=ONE))
    made = restorer(bus)
    await made.hear_out()
    await soon(lambda: events(journal))
    assert_it_came_to_nothing(journal)
    assert all(asked.given_up and asked.version == GIVEN_UP_VERSION for asked in bus.asked)
    assert len({asked.create_id for asked in bus.asked}) == 1
    assert journal.given_up() == []


@pytest.mark.parametrize("told", [True, False], ids=["told", "noted while no worker was there"])
async def test_so_it_does_of_one_that_is_given_up_only_then(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, told: bool
) -> None:
    killed = restorer(MuteBus(COLD, heard=True))
    create = asyncio.create_task(killed.create(ask))
    await soon(journal.containers)
    create.cancel()
    await asyncio.wait([create])
    await killed.close()
    bus = SayingBus(msgspec.structs.replace(OVER, incarnation=ONE))
    made = restorer(bus)
    await made.ended(ask.container_id, None, None if told else datetime.now(UTC), never_ran=not told)
    await soon(lambda: events(journal))
    assert_it_came_to_nothing(journal)


async def test_of_a_start_that_was_never_opened_nothing_is_said(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    mute = MuteBus(COLD, heard=True)
    killed = restorer(mute)
    await given_up(killed, mute, ask)
    await killed.close()
    made = restorer(SayingBus(OVER))
    await made.hear_out()
    await soon(lambda: not journal.given_up())
    assert events(journal) == []


async def test_a_refusal_without_a_number_leads_to_the_question_which_start_it_was(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    gone = Refusal(failure=Failure("pod-not-here", "there is no such pod", "Nothing to do."))
    bus = MuteBus(gone, msgspec.structs.replace(OVER, incarnation=ONE), heard=True)
    made = restorer(bus)
    await given_up(made, bus, ask)
    bus.let.set()
    await soon(lambda: events(journal))
    assert [asked.given_up for asked in bus.asked] == [False, True]
    assert_it_came_to_nothing(journal)
    await made.close()


@pytest.mark.parametrize(
    ("phase", "never_ran"), [("creating", True), ("created", True), ("starting", False), ("started", False)]
)
async def test_of_a_container_that_was_created_its_marker_says_whether_it_may_have_run(
    restorer: Callable[[SayingBus], Restorer],
    journal: Journal,
    settings: Settings,
    ask: CreateRequest,
    phase: str,
    never_ran: bool,
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    Marker(str(settings.container_dir(ask.container_id)), {}).update(phase=phase)
    await made.ended(ask.container_id, 3)
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert (told.never_ran, told.exit_code) == (never_ran, None if never_ran else 3)


@pytest.mark.parametrize("answer", [WAITS, COLD, SUPERSEDED], ids=["wait", "cold", "superseded"])
async def test_a_question_that_may_have_been_heard_is_heard_out_and_its_start_said_to_have_come_to_nothing(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, answer: Resolution
) -> None:
    bus = MuteBus(answer, heard=True)
    made = restorer(bus)
    await given_up(made, bus, ask)
    assert (events(journal), journal.containers()) == ([], [])
    bus.let.set()
    await soon(lambda: events(journal))
    assert_it_came_to_nothing(journal)
    await made.close()


async def test_a_start_that_is_made_again_while_its_question_is_heard_out_is_not_said_to_be_over(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    bus = MuteBus(COLD, heard=True)
    made = restorer(bus)
    await given_up(made, bus, ask)
    again = asyncio.create_task(made.create(ask))
    await soon(lambda: len(bus.asked) > 1)
    bus.let.set()
    assert isinstance(await again, CreateCold)
    await asyncio.sleep(0.1)
    assert events(journal) == []
    await made.close()


async def test_the_number_of_a_create_that_was_given_up_is_not_taken_for_that_of_the_next_one(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    bus = MuteBus(COLD, heard=True)
    made = restorer(bus)
    await given_up(made, bus, ask)
    (record,) = journal.given_up()
    journal.save_container(msgspec.structs.replace(record, create_id="another", given_up=False))
    bus.let.set()
    await soon(lambda: events(journal))
    assert_it_came_to_nothing(journal)
    assert [known.incarnation for known in journal.containers()] == [0]
    await made.close()


async def test_a_start_whose_time_is_up_has_its_number_when_its_engine_deletes_it_after_the_answer(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    bus = MuteBus(COLD, heard=True)
    made = restorer(bus)
    answer = await made.create(ask)
    assert isinstance(answer, Refused)
    assert answer.failure.code == "start-timeout"
    bus.let.set()
    await soon(lambda: [record.incarnation for record in journal.containers()] == [ONE])
    await made.ended(ask.container_id)
    assert_it_came_to_nothing(journal)
    await made.close()


@pytest.mark.parametrize("heard", [False, True])
async def test_a_question_that_nobody_heard_is_dropped_and_none_outlives_the_worker(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, heard: bool
) -> None:
    bus = MuteBus(COLD, heard=heard)
    made = restorer(bus)
    await given_up(made, bus, ask)
    if heard:
        assert not bus.cancelled
        await made.close()
    await asyncio.sleep(0.01)
    assert bus.cancelled
    assert events(journal) == []


async def test_a_container_that_runc_may_have_started_is_not_said_to_have_never_run(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    await made.ended(ask.container_id, 3)
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert (told.never_ran, told.exit_code) == (False, 3)


async def test_an_end_is_told_once_with_its_exit_code(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest
) -> None:
    made = restorer(SayingBus(COLD))
    await made.create(ask)
    await made.ended(ask.container_id, 3)
    await made.ended(ask.container_id, 3)
    (told,) = events(journal)
    assert isinstance(told, ContainerEnded)
    assert told.exit_code == 3


async def test_a_pod_that_is_gone_while_its_container_is_restored_is_refused_and_no_snapshot_blamed(
    restorer: Callable[[SayingBus], Restorer], journal: Journal, ask: CreateRequest, stored: RestoreFrom
) -> None:
    made = restorer(SayingBus(stored))
    assert isinstance(await made.create(ask), CreateRestored)
    said = "runc run failed: Requested network namespace /proc/256213/ns/net does not exist"
    refused = await made.restore_failed(RestoreFailedNotification(ask.container_id, said))
    assert isinstance(refused, Refused)
    assert refused.failure.code == "sandbox-gone"
    assert events(journal) == []


@pytest.fixture
def unwrapper(tmp_path: Path, store: SnapshotStore) -> Unwrapper:
    """Before ``stored``: makes the store one in which each snapshot has a key of its own."""
    private, public = write_pair(tmp_path)
    store._objects = SealedObjects(store._objects._inner, KeyRing((StoreKey(b"s" * 32),)), Recipient.from_file(public))
    return Unwrapper.from_file(private)


async def test_a_snapshot_with_a_key_of_its_own_is_restored_with_the_key_that_comes_with_the_decision(
    unwrapper: Unwrapper,
    restorer: Callable[[SayingBus], Restorer],
    store: SnapshotStore,
    stored: RestoreFrom,
    ask: CreateRequest,
) -> None:
    wrapped = store.locked(KEY, stored.snapshot_id)
    key = to_text(unwrapper.unwrap(wrapped, purpose(KEY, stored.snapshot_id)))
    bus = SayingBus(stored, msgspec.structs.replace(stored, data_key=key))
    answer = await restorer(bus).create(ask)
    assert isinstance(answer, CreateRestored)
    assert [asked.wrapped_key for asked in bus.asked] == ["", to_text(wrapped)]
    assert await asyncio.to_thread((Path(answer.image_path) / "pages-1.img").read_bytes) == b"memory"


async def test_without_its_key_a_snapshot_is_left_for_later_and_the_start_goes_on_without_it(
    unwrapper: Unwrapper,
    restorer: Callable[[SayingBus], Restorer],
    stored: RestoreFrom,
    journal: Journal,
    ask: CreateRequest,
) -> None:
    answer = await restorer(SayingBus(stored, stored, COLD)).create(ask)
    assert isinstance(answer, CreateCold)
    (failed,) = [event for event in events(journal) if isinstance(event, RestoreFailed)]
    assert (failed.failure.code, failed.failure.code in PASSING_CODES) == (DATA_KEY_MISSING, True)


async def test_a_decision_that_has_changed_when_the_key_is_asked_for_is_asked_for_anew(
    unwrapper: Unwrapper,
    restorer: Callable[[SayingBus], Restorer],
    stored: RestoreFrom,
    journal: Journal,
    ask: CreateRequest,
) -> None:
    assert isinstance(await restorer(SayingBus(stored, COLD, COLD)).create(ask), CreateCold)
    assert not [event for event in events(journal) if isinstance(event, RestoreFailed)]
