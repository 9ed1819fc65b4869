"""A simulated node: containers that run, and a worker with a journal that does what :mod:`nodeworker` does.

The journal outlives the worker, the containers outlive the worker too, and neither outlives the machine's boot except the
journal. Reports leave in order, each again and again until the broker confirms it. A command is taken once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from woodfrog.protocol.commands import Command, DeleteCommand, DumpCommand, StoreCommand
from woodfrog.protocol.events import (
    CommandFinished,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    NodeRegistered,
    Outcome,
    ReportedEvent,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotStored,
    SnapshotStoreDelayed,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.reports import Heartbeat, Report
from woodfrog.protocol.requests import Refusal, Resolution, ResolveRequest, RestoreFrom, StartCold, WaitFor

from .laws import Snapshot, Truth, local_digest
from .network import LawBrokenError

_RESTARTED = Failure("worker-restarted", "the worker was restarted during the dump", "Ask again.")
_REBOOTED = Failure("node-restarted", "the node went down during the dump", "Ask again.")
_REFUSED = Failure("not-running", "no such container runs", "Ask again.")
_EXPIRED = Failure("command-expired", "the deadline is over", "Ask again.")
_DUMP_FAILED = Failure("criu-error", "CRIU could not dump", "Look at its log.")
_RESTORE_FAILED = Failure("criu-error", "CRIU could not restore", "Look at its log.")
_STORE_AWAY = Failure("store-unavailable", "the store does not answer", "Bring it back.")
_BROKEN = Failure("spool-lost", "the capture is broken", "Take a new one.")
_NOT_MOUNTED = Failure("store-not-mounted", "the store has no mark", "Mount it.")
_STORE_REFUSED = Failure("store-refused", "the store did not remove it", "It is tried again.")
_PORT_TAKEN = Failure("address-taken", "the port is taken", "Free it.")
PATIENCE_SECONDS = 12.0
"""After which a worker asks once more."""
_ENDS_KNOWN = 0.3
"""How often anybody knows how a container ended."""


@dataclass
class Container:
    """What the engine runs, whatever the worker knows of it."""

    container_id: str
    key: CheckpointKey
    facts: ContainerFacts
    phase: str = "creating"
    """``creating``, ``created``, ``running`` or ``dead``."""
    restored_from: str | None = None
    incarnation: int = 0
    dumps: int = 0
    frozen: bool = False
    told_at: int = -1


@dataclass
class Entry:
    """What the journal says of a container."""

    key: CheckpointKey
    incarnation: int = 0
    phase: str = "creating"
    create_id: str = ""


@dataclass
class Dump:
    """A dump that has neither been stored nor failed."""

    snapshot_id: str
    container: Container
    key: CheckpointKey
    incarnation: int
    final: bool
    command: str | None
    boot: int
    step: str = "started"
    delayed: bool = False
    """Whether the store has refused it, so that it was made to outlive the boot."""


@dataclass
class Journal:
    """What survives everything but the loss of the node."""

    containers: dict[str, Entry] = field(default_factory=dict)
    given_up: dict[str, Entry] = field(default_factory=dict)
    """Starts that nobody wants any more, of which the log may have opened one."""
    dumps: dict[str, Dump] = field(default_factory=dict)
    commands: dict[str, Outcome | None] = field(default_factory=dict)
    outbox: deque[Report] = field(default_factory=deque)
    sequence: int = 0


class Ask:
    """A question on its way to the control plane; its number tells its answer from that to an earlier one."""

    def __init__(self, request: ResolveRequest, number: int, at: float) -> None:
        self.request = request
        self.number = number
        self.at = at


class Node:
    """One machine."""

    def __init__(self, name: str, facts: NodeFacts, truth: Truth, chance: Random, say: Callable[..., None]) -> None:
        self.name = NodeName(name)
        self.facts = facts
        self.truth = truth
        self.chance = chance
        self.say = say
        self.skew_seconds = 0.0
        self.store = ""
        """The store that is at this node's place for one."""
        self.mounted = True
        """Whether it is; otherwise there is an empty directory."""
        self.now = datetime.min.replace(tzinfo=UTC)
        self.up = True
        self.linked = True
        self.gone = False
        self.boot = 1
        self.life = 0
        self.alive = False
        self.containers: dict[str, Container] = {}
        self.journal = Journal()
        self.asks: deque[Ask] = deque()
        self.answers: list[tuple[Ask, Resolution, int]] = []
        self.asked: dict[str, int] = {}
        """The number of the question that each container's start waits for; lost with the worker."""
        self.hearing: dict[int, tuple[Entry, float]] = {}
        """The starts that were given up whose question is on its way, by its number, and since when; lost with the worker."""
        self.restoring: dict[str, tuple[RestoreFrom, int]] = {}
        """Containers whose restore has begun, and what they were told; lost with the worker."""
        self.number = 0
        self.asked_at = self.beat_at = 0.0

    @property
    def worker_id(self) -> WorkerId:
        return WorkerId(f"{self.name}/{self.life}")

    @property
    def works(self) -> bool:
        return self.up and self.alive

    # What the worker says

    def report(self, *events: ReportedEvent) -> None:
        for event in events:
            report_id = UUID(int=self.chance.getrandbits(128))
            self.journal.outbox.append(Report(report_id, self.name, self.worker_id, self.now, event))

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.name, self.worker_id, f"boot-{self.boot}", self.facts)

    def _finished(self, command: Command, failure: Failure | None) -> CommandFinished:
        outcome = Outcome.SUCCEEDED if failure is None else Outcome.FAILED
        about = {"key": command.key, "incarnation": command.incarnation, "command_id": command.command_id}
        return CommandFinished(**about, outcome=outcome, failure=failure)

    # Its lives

    def start_worker(self) -> None:
        """Begin a life: tell of it, and settle what the last one left behind."""
        self.life += 1
        self.alive = True
        self.report(
            NodeRegistered(node=self.name, worker_id=self.worker_id, boot_id=f"boot-{self.boot}", facts=self.facts)
        )
        for dump in list(self.journal.dumps.values()):
            dump.container.frozen = False
            if dump.boot != self.boot and not dump.delayed:
                self._fail(dump, _REBOOTED)
            elif dump.step == "started":
                self._fail(dump, _RESTARTED)
            elif dump.step == "complete":
                self._captured(dump)
        self.sweep()

    def kill_worker(self) -> None:
        self.alive = False
        self.asked.clear()
        self.hearing.clear()
        self.restoring.clear()

    def reboot(self) -> None:
        """Lose everything but the journal."""
        self.kill_worker()
        self.boot += 1
        for container in self.containers.values():
            container.phase = "dead"
            container.frozen = False

    def sweep(self) -> None:
        """Notice what the runtime could not tell."""
        for name, entry in list(self.journal.containers.items()):
            container = self.containers.get(name)
            if container is None or container.phase == "dead":
                self._ended(name, entry)
            elif container.phase == "running" and entry.phase == "created":
                self._started(container, entry)

    # Containers

    def create(self, container: Container) -> None:
        """The engine creates a container; one that had its name before is gone."""
        if self.works and container.container_id in self.journal.containers:
            self._ended(container.container_id, self.journal.containers[container.container_id])
        self.containers[container.container_id] = container

    def ask(self, name: str, moment: float) -> None:
        """Ask how to start a container, if everything said before was confirmed."""
        container = self.containers[name]
        if not self.works or container.phase != "creating" or self.journal.outbox or name in self.restoring:
            return
        given_up = self.journal.given_up.pop(name, None)
        entry = self.journal.containers.setdefault(
            name, given_up or Entry(container.key, create_id=f"{self.chance.getrandbits(64):x}")
        )
        if entry.key != container.key:
            self._ended(name, entry)
            return
        if entry.phase not in {"creating", "created"}:
            self._ended(name, entry)
            return
        entry.phase = "creating"
        if not self.linked:
            return
        self.asked_at = moment
        self.asked[name] = self._put(name, entry, container.facts, moment)

    def _put(self, name: str, entry: Entry, facts: ContainerFacts, moment: float, *, given_up: bool = False) -> int:
        self.number += 1
        request = ResolveRequest(
            entry.key, ContainerId(name), self.name, self.worker_id, self.facts, facts, self.journal.sequence,
            create_id=entry.create_id, given_up=given_up,
        )  # fmt: skip
        self.asks.append(Ask(request, self.number, moment))
        return self.number

    def ask_on(self, moment: float) -> bool:
        """Ask which start the log has opened for a container that was given up, unless the answer is awaited; say whether it did."""
        if not self.works or not self.linked or self.journal.outbox:
            return False
        awaited = [entry for entry, since in self.hearing.values() if moment - since < PATIENCE_SECONDS]
        for name, entry in self.journal.given_up.items():
            if entry not in awaited:
                self.hearing[self._put(name, entry, ContainerFacts(), moment, given_up=True)] = entry, moment
                return True
        return False

    def answered(self, ask: Ask, answer: Resolution, told_at: int) -> None:
        """Act on an answer, if anybody still waits for it; a start that was given up meanwhile has come to nothing."""
        name, number = str(ask.request.container_id), ask.number
        if self.works and number in self.hearing:
            entry, _ = self.hearing.pop(number)
            if answer.incarnation or ask.request.given_up:
                self._came_to_nothing(name, entry, answer)
            return
        container, entry = self.containers.get(name), self.journal.containers.get(name)
        if not self.works or self.asked.get(name) != number or container is None or entry is None:
            return
        del self.asked[name]
        if container.phase != "creating":
            return
        match answer:
            case WaitFor():
                entry.incarnation = answer.incarnation
            case Refusal():
                container.phase = "dead"
                entry.incarnation = answer.incarnation
                self._ended(name, entry)
            case StartCold():
                entry.incarnation = answer.incarnation
                self._created(container, entry, None, told_at)
            case RestoreFrom():
                entry.incarnation = answer.incarnation
                self.restoring[name] = (answer, told_at)

    def restore(self, name: str) -> None:  # noqa: C901 -- one line for each way in which it may end
        """Bring a restore that has begun to its end, good or bad."""
        answer, told_at = self.restoring.pop(name)
        container, entry = self.containers[name], self.journal.containers.get(name)
        if container.phase != "creating" or entry is None:
            return  # it was deleted meanwhile
        snapshot = self.truth.snapshots[answer.snapshot_id]
        content = snapshot.content if self.mounted and snapshot.store == self.store else "missing"
        dice = self.chance.random()
        if answer.unstored:
            if (snapshot.node, local_digest(answer.snapshot_id)) != (self.name, answer.manifest_digest):
                raise LawBrokenError(f"{self.name} is to restore what it does not hold: {answer}")
            if answer.snapshot_id not in self.journal.dumps:
                return  # it was stored or given up, which was reported: the next question is answered otherwise
            content = "good" if dice > 0.03 else "broken"
        elif snapshot.content == "unwritten":
            raise LawBrokenError(f"{answer.snapshot_id} is to be restored and was never stored")
        if content == "broken":
            failure, stage = _BROKEN, RestoreStage.FETCH
        elif content != "good":
            code = "snapshot-corrupt" if content == "corrupt" else "snapshot-missing"
            failure, stage = Failure(code, "it is not whole", "Use an older one."), RestoreStage.FETCH
        elif dice < 0.06 and not answer.unstored:
            failure, stage = _STORE_AWAY, RestoreStage.FETCH
        elif dice < 0.16:
            failure, stage = _RESTORE_FAILED, RestoreStage.CRIU
        elif dice < 0.3:
            failure, stage = _PORT_TAKEN, RestoreStage.CRIU
        else:
            self._created(container, entry, answer.snapshot_id, told_at)
            return
        self.say(f"{self.name}: {container.container_id} cannot be restored from {answer.snapshot_id}: {failure.code}")
        about = {"key": container.key, "incarnation": answer.incarnation, "node": self.name}
        knows = self.mounted and self.facts.store is not None and failure.code == "snapshot-missing"
        looked_in = self.store if knows else None
        if not self.mounted and self.facts.store is not None and not answer.unstored:
            failure = _NOT_MOUNTED
        self.report(
            RestoreFailed(**about, snapshot_id=answer.snapshot_id, stage=stage, failure=failure, store=looked_in)
        )

    def _created(self, container: Container, entry: Entry, restored_from: str | None, told_at: int) -> None:
        container.phase = entry.phase = "created"
        container.restored_from = restored_from
        container.incarnation = entry.incarnation
        container.told_at = told_at

    def start(self, container: Container) -> None:
        """The engine starts what was created; the worker is told if it is there."""
        container.phase = "running"
        self.truth.ran.setdefault(container.key, []).append((container.incarnation, container.told_at))
        entry = self.journal.containers.get(container.container_id)
        if self.alive and entry is not None:
            self._started(container, entry)

    def _started(self, container: Container, entry: Entry) -> None:
        entry.phase = "running"
        self.report(
            ContainerStarted(
                key=container.key,
                incarnation=IncarnationNumber(entry.incarnation),
                node=self.name,
                container_id=ContainerId(container.container_id),
                restored_from=None if container.restored_from is None else SnapshotId(container.restored_from),
            )
        )

    def end(self, container: Container) -> None:
        """The container's processes are gone, and the engine deletes it."""
        container.phase = "dead"
        entry = self.journal.containers.get(container.container_id)
        if self.alive and entry is not None and not container.frozen:
            self._ended(container.container_id, entry)

    def _ended(self, name: str, entry: Entry) -> None:
        del self.journal.containers[name]
        number = self.asked.pop(name, None)
        self.restoring.pop(name, None)
        if entry.incarnation:
            about = {"key": entry.key, "incarnation": entry.incarnation, "node": self.name}
            how = self.chance.choice(((None, None), (0, True), (0, False), (137, False)))
            never_ran = entry.phase == "creating"
            exit_code, stopped = how if self.chance.random() < _ENDS_KNOWN and not never_ran else (None, None)
            ended = {"container_id": ContainerId(name), "exit_code": exit_code, "stopped": stopped}
            self.report(ContainerEnded(**about, **ended, never_ran=never_ran))
        else:
            self.journal.given_up[name] = entry
            if number is not None:
                self.hearing[number] = entry, self.asked_at

    def _came_to_nothing(self, name: str, entry: Entry, answer: Resolution) -> None:
        """Say so of the start that the log has opened; unless the container is created again, as the same start."""
        again = self.journal.containers.get(name)
        if self.journal.given_up.get(name) is entry:
            del self.journal.given_up[name]
        if again is not None and again.key == entry.key:
            again.incarnation = again.incarnation or answer.incarnation
            return
        if not answer.incarnation:
            return
        about = {"key": entry.key, "incarnation": answer.incarnation, "node": self.name}
        self.report(ContainerEnded(**about, container_id=ContainerId(name), never_ran=True))

    # Dumps

    def begin(self, container: Container, *, final: bool, command: str | None = None) -> bool:
        """Freeze a running container, having said so; answer whether that was possible."""
        entry = self.journal.containers.get(container.container_id)
        if not self.works or container.phase != "running" or container.frozen:
            return False
        if entry is None or entry.phase != "running":
            return False
        container.dumps += 1
        container.frozen = True
        name = SnapshotId(f"{container.key.id}-{entry.incarnation}.{container.dumps}-{self.chance.getrandbits(16):04x}")
        dump = Dump(name, container, container.key, entry.incarnation, final, command, self.boot)
        self.journal.dumps[name] = dump
        self.truth.snapshots[name] = Snapshot(
            container.key, entry.incarnation, container.dumps, self.name, self.facts, container.facts, f"digest-{name}",
            stored_bytes=self.chance.randint(1, 3),
        )  # fmt: skip
        if command is not None:
            self.truth.executions[command] = self.truth.executions.get(command, 0) + 1
        about = {"key": dump.key, "incarnation": dump.incarnation, "snapshot_id": name, "node": self.name}
        trigger = Trigger.STOP_SIGNAL if final else Trigger.COMMAND
        self.report(DumpStarted(**about, trigger=trigger, final=final, command_id=_command(command)))
        return True

    def go_on(self, dump: Dump) -> None:
        """Take a dump one step further, or see it fail."""
        failing = self.chance.random() < 0.08
        if dump.step == "started":
            dump.container.frozen = False
            if failing or dump.container.phase == "dead":
                self._fail(dump, _DUMP_FAILED)
                return
            dump.step = "complete"
            if dump.final:
                dump.container.phase = "dead"
        elif dump.step == "complete":
            self._captured(dump)
        elif self.chance.random() < (0.8 if dump.delayed else 0.1 if self.mounted else 0.6):
            self._delay(dump)
        elif failing or not self.mounted:
            self._fail(dump, _STORE_AWAY if self.mounted else _NOT_MOUNTED, DumpStage.STORE)
        else:
            self._store(dump)

    def _captured(self, dump: Dump) -> None:
        dump.step = "captured"
        about = {"key": dump.key, "incarnation": dump.incarnation, "snapshot_id": dump.snapshot_id, "node": self.name}
        self.report(SnapshotCaptured(**about, freeze_seconds=0.1, raw_bytes=1))

    def _delay(self, dump: Dump) -> None:
        """Keep a capture that the store refuses, and say so once."""
        if dump.delayed:
            return
        dump.delayed = True
        about = {"key": dump.key, "incarnation": dump.incarnation, "snapshot_id": dump.snapshot_id, "node": self.name}
        vouched: dict[str, Any] = {}
        if self.chance.random() < 0.8:
            vouched["manifest_digest"] = local_digest(dump.snapshot_id)
            vouched["taken_on"] = replace(self.facts, store=None)
            vouched["taken_from"] = self.truth.snapshots[dump.snapshot_id].taken_from
        self.report(SnapshotStoreDelayed(**about, failure=_STORE_AWAY, since=self.now, **vouched))

    def _store(self, dump: Dump) -> None:
        snapshot = self.truth.snapshots[dump.snapshot_id]
        snapshot.content, snapshot.store = "good", self.store
        if self.chance.random() < 0.05:
            return  # killed or cut off behind the last byte: stored again, to the same effect
        snapshot.told = True
        del self.journal.dumps[dump.snapshot_id]
        if dump.command is not None:
            self.truth.stored_for.add(dump.command)
            self._close(dump.command, Outcome.SUCCEEDED)
        self.report(
            SnapshotStored(
                key=dump.key,
                incarnation=IncarnationNumber(dump.incarnation),
                snapshot_id=SnapshotId(dump.snapshot_id),
                node=self.name,
                manifest_digest=snapshot.digest,
                raw_bytes=1,
                stored_bytes=snapshot.stored_bytes,
                store_seconds=0.1,
                taken_on=self.facts,
                taken_from=snapshot.taken_from,
                command_id=_command(dump.command),
            )
        )

    def _fail(self, dump: Dump, failure: Failure, stage: DumpStage = DumpStage.CAPTURE) -> None:
        del self.journal.dumps[dump.snapshot_id]
        if dump.command is not None:
            self._close(dump.command, Outcome.FAILED)
        about = {"key": dump.key, "incarnation": dump.incarnation, "snapshot_id": dump.snapshot_id, "node": self.name}
        self.report(DumpFailed(**about, stage=stage, failure=failure, command_id=_command(dump.command)))

    # Commands

    def obey(self, command: Command, clock: datetime) -> bool:
        """Carry a command out, once; answer whether it may be acknowledged."""
        name = command.command_id
        if name in self.journal.commands:
            outcome = self.journal.commands[name]
            if outcome is not None:
                self.report(self._finished(command, None if outcome is Outcome.SUCCEEDED else _REFUSED))
                return True
            if any(dump.command == name for dump in self.journal.dumps.values()):
                return False
        self.journal.commands.setdefault(name, None)
        if self.chance.random() < 0.03:
            self.kill_worker()  # between taking a command and beginning it
            return False
        if isinstance(command, DeleteCommand):
            return self._delete(command, clock)
        if isinstance(command, StoreCommand):
            return self._store_now(command, clock)
        assert isinstance(command, DumpCommand)
        container = self.containers.get(command.container_id)
        entry = self.journal.containers.get(command.container_id)
        failure: Failure | None = _REFUSED
        if clock > command.deadline:
            failure = _EXPIRED
        elif container is not None and entry is not None and entry.incarnation == command.incarnation:
            failure = None if self.begin(container, final=False, command=name) else _REFUSED
        if failure is None:
            return False
        self._close(name, Outcome.FAILED)
        self.report(self._finished(command, failure))
        return True

    def _delete(self, command: DeleteCommand, clock: datetime) -> bool:
        """Remove a snapshot's bytes; what is gone already is as good as removed now."""
        failure: Failure | None = None
        if clock > command.deadline:
            failure = _EXPIRED
        elif self.chance.random() < 0.06:
            failure = _STORE_REFUSED
        elif not self.mounted:
            failure = _NOT_MOUNTED
        elif command.store not in {None, self.store}:
            raise LawBrokenError(f"{self.name} is to delete in {command.store} and has {self.store}")
        if failure is not None:
            self._close(command.command_id, Outcome.FAILED)
            self.report(self._finished(command, failure))
            return True
        self.truth.snapshots[command.snapshot_id].content = "deleted"
        if self.chance.random() < 0.08:
            self.kill_worker()  # the bytes are gone, and nobody knows
            return False
        self._close(command.command_id, Outcome.SUCCEEDED)
        about = {"key": command.key, "incarnation": command.incarnation, "snapshot_id": command.snapshot_id}
        self.report(SnapshotDeleted(**about, node=self.name, command_id=command.command_id))
        return True

    def _store_now(self, command: StoreCommand, clock: datetime) -> bool:
        """Try once more to store a capture that waits for it."""
        dump = self.journal.dumps.get(command.snapshot_id)
        failure: Failure | None = _REFUSED
        if clock > command.deadline:
            failure = _EXPIRED
        elif dump is not None and dump.step == "captured":
            self.go_on(dump)
            failure = _STORE_AWAY if command.snapshot_id in self.journal.dumps else None
        self._close(command.command_id, Outcome.FAILED if failure else Outcome.SUCCEEDED)
        self.report(self._finished(command, failure))
        return True

    def _close(self, command: str, outcome: Outcome) -> None:
        if self.journal.commands.get(command) is None:
            self.journal.commands[command] = outcome


def _command(name: str | None) -> CommandId | None:
    return None if name is None else CommandId(name)


def clock_of(node: Node, moment: datetime) -> datetime:
    """Tell the time as the node's clock does."""
    return moment + timedelta(seconds=node.skew_seconds)
