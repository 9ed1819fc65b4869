"""What must hold after every step, told by nobody who decides: a model of the selection law that reads the log alone, and truth.

Truth is what the simulated world knows and the control plane cannot: which container really ran, which bytes are whole, in which
order dumps were really taken. The laws compare the log, the state and every answer with both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from controlplane.domain import Decision, Input, ResolveAsked, SnapshotAsked, State, evolve
from controlplane.domain.placement import PlacedPod
from woodfrog.protocol.commands import DeleteCommand, DumpCommand
from woodfrog.protocol.events import (
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    Event,
    IncarnationOpened,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    Outcome,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRetried,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    SnapshotUnpinned,
    StartDeferred,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts, misfit
from woodfrog.protocol.failures import CONDEMNING_CODES, PASSING_CODES, SNAPSHOT_MISSING
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, NodeName
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import Noted, Refusal, ResolveRequest, RestoreFrom, StartCold, WaitFor

from .config import HANDOVER_SECONDS
from .network import LawBrokenError
from .retention_laws import Keeping

OVER = SnapshotSuperseded | SnapshotInvalidated | DumpFailed | SnapshotExpired | SnapshotDeleted


def local_digest(snapshot_id: str) -> str:
    """Name the manifest of a capture as it lies on its node."""
    return f"local-{snapshot_id}"


@dataclass
class Snapshot:
    """What a snapshot really is."""

    key: CheckpointKey
    incarnation: int
    index: int
    """The how many-th dump of its container it is."""
    node: str
    taken_on: NodeFacts
    taken_from: ContainerFacts
    digest: str
    stored_bytes: int = 1
    store: str = ""
    """The store that holds its bytes."""
    content: str = "unwritten"
    """``unwritten``, ``good``, ``corrupt``, ``missing``, or ``deleted`` by a worker that was told to."""
    told: bool = False
    """Whether its worker's journal says that it is stored."""


@dataclass
class Truth:
    """What only the world knows."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    ran: dict[CheckpointKey, list[tuple[int, int]]] = field(default_factory=dict)
    """Containers that really ran: their incarnation, and the position of the answer that they started from."""
    executions: dict[str, int] = field(default_factory=dict)
    """How often a command was really carried out."""
    stored_for: set[str] = field(default_factory=set)
    """Commands whose dump was really stored."""
    pods: dict[str, PlacedPod] = field(default_factory=dict)
    """What Kubernetes has, by uid."""
    lies: set[str] = field(default_factory=set)
    """Containers for which a start was asked that no engine is to create."""
    forged: set[str] = field(default_factory=set)
    """Snapshots that were never taken of any pod."""
    forgeries: set[str] = field(default_factory=set)
    """Reports that are not true."""
    tainted: bool = False
    """A broker was wiped with words in it that nobody will say again."""


class Told(NamedTuple):
    """An event of one key in the log."""

    event: Event
    position: int


def fresh_starts(log: list[Told]) -> tuple[int, set[str]]:
    """The model of fresh starts: the newest incarnation that made one as it was asked to, and the wishes that are used up."""
    wishes = {e.incarnation: e.container.fresh for e, _ in log if isinstance(e, IncarnationOpened)}
    chosen, since, used = set[int](), 0, set[str]()
    for e, _ in log:
        if isinstance(e, ColdStartChosen) and e.fresh:
            chosen.add(e.incarnation)
        elif isinstance(e, ColdStartChosen | RestoreChosen | RestoreFailed):
            chosen.discard(e.incarnation)
        elif isinstance(e, ContainerStarted | DumpStarted) and e.incarnation in chosen and e.incarnation > since:
            since = e.incarnation
            used.add(wishes[e.incarnation])
    return since, used


def best(  # noqa: C901, PLR0912, PLR0915 -- a model is believed if it can be read at one go
    log: list[Told],
    number: int,
    now: datetime,
    lost: dict[str, bool],
    facts: dict[str, NodeFacts],
    captured_at: dict[str, datetime],
) -> str | None:
    """The model: the latest snapshot that is valid, fits and did not fail here; ``wait`` if a later one is in flight."""
    opened = {e.incarnation: e for e, _ in log if isinstance(e, IncarnationOpened)}
    me, until, answered = opened[number], now + timedelta(days=1), set[int]()
    ran, overtaken, never_ran = set[int](), set[int](), set[int]()
    order: dict[str, tuple[int, int]] = {}
    begun: dict[str, Any] = {}
    over, tried, written = set[str](), set[str](), dict[str, SnapshotStored]()
    vouched, chosen = dict[str, SnapshotStoreDelayed](), dict[int, str]()
    failed_here, done = set[str](), 0
    pinned, retried, newest = set[str](), Counter[str](), 0
    for e, position in log:
        if isinstance(e, DumpStarted | SnapshotCaptured | SnapshotStoreDelayed | SnapshotStored | DumpFailed):
            order.setdefault(e.snapshot_id, (e.incarnation, position))
            begun.setdefault(e.snapshot_id, e)
        if isinstance(e, RestoreChosen | ColdStartChosen):
            before = chosen.pop(e.incarnation, None)
            if e.incarnation == number and before is not None:
                tried.add(before)  # it may be at it
        otherwise = (
            isinstance(e, RestoreFailed) and e.incarnation in answered and chosen.get(e.incarnation) != e.snapshot_id
        )
        if isinstance(e, RestoreChosen):
            chosen[e.incarnation] = e.snapshot_id
        elif isinstance(e, RestoreFailed) and not otherwise:
            chosen.pop(e.incarnation, None)
        if isinstance(e, SnapshotStoreDelayed) and e.manifest_digest:
            vouched[e.snapshot_id] = e
        elif isinstance(e, SnapshotStored):
            written[e.snapshot_id] = e
        elif isinstance(e, OVER):
            over.add(e.snapshot_id)
        elif isinstance(e, SnapshotPinned):
            pinned.add(e.snapshot_id)
        elif isinstance(e, SnapshotRetried):
            over.discard(e.snapshot_id)
            failed_here.discard(e.snapshot_id)
            retried[e.snapshot_id] = newest
        elif isinstance(e, SnapshotUnpinned):
            pinned.discard(e.snapshot_id)
        elif isinstance(e, RestoreChosen | ColdStartChosen):
            answered.add(e.incarnation)
        elif isinstance(e, ContainerStarted | DumpStarted):
            ran.add(e.incarnation)
        elif isinstance(e, IncarnationOpened):
            newest = e.incarnation
            overtaken |= {n for n in answered if n < e.incarnation}
        elif isinstance(e, ContainerEnded) and e.never_ran:
            never_ran.add(e.incarnation)
        elif isinstance(e, StartDeferred) and e.incarnation == number:
            until = e.until
        elif isinstance(e, RestoreFailed):
            if not otherwise:
                answered.discard(e.incarnation)
            if _proves(e, written.get(e.snapshot_id), facts):
                over.add(e.snapshot_id)
            here = (e.node, opened[e.incarnation].container.image) == (me.node, me.container.image)
            if e.incarnation == number:
                tried.add(e.snapshot_id)
            elif here and e.stage is not RestoreStage.FETCH and e.failure.code not in PASSING_CODES:
                failed_here.add(e.snapshot_id)
        elif _is_done(e):
            done = max(done, e.incarnation)
    ahead = max(ran | (overtaken - never_ran), default=0)
    since, used = fresh_starts(log)
    if me.container.fresh and me.container.fresh not in used:
        return None
    runs_on = now < until and _runs_on(log, ahead, opened, number, lost, facts, captured_at)
    walk = sorted(order, key=order.__getitem__, reverse=True)
    for snapshot in [one for one in walk if one in pinned] + [one for one in walk if one not in pinned]:
        if runs_on and snapshot not in pinned:
            return "wait"
        event = written.get(snapshot)
        if snapshot in over | tried or (
            snapshot not in pinned
            and (
                snapshot in failed_here
                or order[snapshot][0] <= done > retried[snapshot]
                or order[snapshot][0] < since > retried[snapshot]
            )
        ):
            continue
        where, origin = begun[snapshot].node, opened[begun[snapshot].incarnation].container
        here = vouched.get(snapshot) if where == me.node and not event else None
        taken_on = (event or here).taken_on if event or here else facts[where]
        if misfit(taken_on, origin, facts[me.node], me.container):
            continue
        if event:
            return snapshot
        if max(order[snapshot][0], retried[snapshot]) < ahead and snapshot not in _line(chosen, order, ahead):
            continue
        if here:
            return snapshot
        if now < until and (where == me.node or not lost[where]):
            return "wait"
    return "wait" if runs_on else None


def _line(chosen: dict[int, str], order: dict[str, tuple[int, int]], number: int) -> set[str]:
    """What a start resumes from: what it was restored from, what that was captured after, and so on."""
    found = set[str]()
    while (name := chosen.get(number)) is not None:
        found.add(name)
        number, _ = order[name]
    return found


def _proves(failed: RestoreFailed, stored: SnapshotStored | None, facts: dict[str, NodeFacts]) -> bool:
    """The model of proof: damaged bytes, or an object that is missing in the store where the snapshot was put."""
    if failed.failure.code != SNAPSHOT_MISSING:
        return failed.failure.code in CONDEMNING_CODES
    holds = None if stored is None else stored.taken_on.store or facts[stored.node].store
    return failed.store is not None and failed.store == holds


def _runs_on(
    log: list[Told],
    before: int,
    opened: dict[Any, IncarnationOpened],
    number: int,
    lost: dict[str, bool],
    facts: dict[str, NodeFacts],
    captured_at: dict[str, datetime],
) -> bool:
    """The model of the hand-over: the container before still runs, and was not dumped since this start was opened."""
    if not 0 < before < number:
        return False
    mine = next(place for place, (e, _) in enumerate(log) if e is opened[number])
    where, me = opened[before].node, opened[number]
    about = [(place, e) for place, (e, _) in enumerate(log) if getattr(e, "incarnation", 0) == before]
    begun = {e.snapshot_id for _, e in about if isinstance(e, DumpStarted | SnapshotCaptured | SnapshotStoreDelayed)}
    done = {e.snapshot_id for _, e in about if isinstance(e, SnapshotStored | DumpFailed)}
    final = any(isinstance(e, DumpStarted) and e.final for _, e in about)
    runs = any(isinstance(e, ContainerStarted | DumpStarted) for _, e in about)
    ended = any(isinstance(e, ContainerEnded) for _, e in about)
    dumps = [e.command for e, _ in log[mine:] if isinstance(e, CommandIssued) and e.incarnation == before]
    asked_at = [command.issued_at for command in dumps if isinstance(command, DumpCommand)]
    here = {e.snapshot_id for _, e in about if isinstance(e, SnapshotStoreDelayed) and e.manifest_digest}
    old_here = {name for name in here if where == me.node and (not asked_at or captured_at[name] <= asked_at[-1])}
    if ended or final or not runs or begun - done - old_here or (lost[where] and where != me.node):
        return False
    if misfit(facts[where], opened[before].container, facts[me.node], me.container):
        return False
    asked = [(place, e.command) for place, e in about if isinstance(e, CommandIssued)]
    issued = [(place, command.command_id) for place, command in asked if isinstance(command, DumpCommand)]
    finished = {e.command_id for _, e in about if isinstance(e, CommandFinished)}
    return any(command not in finished for _, command in issued) or not any(place > mine for place, _ in issued)


def _is_done(event: Event) -> bool:
    """Whether a program is said to have done its work."""
    return isinstance(event, ContainerEnded) and event.exit_code == 0 and event.stopped is False


class Laws:
    """Watches every event and every answer, and follows the log as a standby does."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.keeping = Keeping()
        self.set_aside: set[str] = set()
        """Snapshots that somebody asked to be invalidated."""
        self.standby = State()
        self.log: list[Event] = []
        self.of_key: dict[CheckpointKey, list[Told]] = {}
        self.lost: dict[str, bool] = {}
        self.keeping.lost = self.lost
        self.facts: dict[str, NodeFacts] = {}
        self.issued: dict[str, CommandIssued] = {}
        self.finished: set[str] = set()
        self.stored_at: dict[str, int] = {}
        self.captured_at: dict[str, datetime] = {}
        self.vouched: dict[str, int] = {}
        """Captures that their nodes could restore, and where in the log that stands first."""
        self.opened: dict[tuple[CheckpointKey, int], tuple[IncarnationOpened, int]] = {}
        self.deferred: dict[tuple[CheckpointKey, int], StartDeferred] = {}
        self.choices: dict[tuple[CheckpointKey, int], tuple[str | None, int]] = {}

    def recorded(self, event: Event, at: datetime) -> None:  # noqa: C901, PLR0912 -- one case for each kind of event
        """Check an event against the log before it, and take it in."""
        position = len(self.log)
        if not isinstance(event, NodeRegistered | NodeLost | NodeReturned):
            self.keeping.recorded(event, at, position)
        match event:
            case NodeRegistered():
                self.lost[event.node], self.facts[event.node] = False, event.facts
            case NodeLost() | NodeReturned():
                self.lost[event.node] = isinstance(event, NodeLost)
            case IncarnationOpened():
                self._opened(event, position)
            case RestoreChosen() | ColdStartChosen():
                self._chosen(event, at, position)
            case StartDeferred():
                self._deferred(event, at)
            case SnapshotCaptured():
                self.captured_at.setdefault(event.snapshot_id, at)
            case SnapshotStoreDelayed():
                self.captured_at.setdefault(event.snapshot_id, at)
                if event.manifest_digest:
                    self.vouched.setdefault(event.snapshot_id, position)
            case SnapshotStored():
                self.stored_at[event.snapshot_id] = position
            case SnapshotInvalidated():
                self._invalidated(event)
            case CommandIssued():
                if event.command.command_id in self.issued:
                    raise LawBrokenError(f"command {event.command.command_id} was issued twice")
                self.issued[event.command.command_id] = event
            case CommandFinished():
                self._finished(event)
            case _:
                pass
        self.log.append(event)
        if not isinstance(event, NodeRegistered | NodeLost | NodeReturned):
            self.of_key.setdefault(event.key, []).append(Told(event, position))
        evolve(self.standby, event, at)

    def decided(self, given: Input, decision: Decision, now: datetime) -> None:
        """Check an answer against the log that it was given from."""
        if decision.rejected is not None and not self.truth.tainted and not self._too_late(given, decision.rejected):
            raise LawBrokenError(f"a true word was not believed: {decision.rejected}: {given}")
        if isinstance(given, SnapshotAsked) and not isinstance(decision.answer, Noted | Refusal):
            raise LawBrokenError(f"a wish was not answered: {given}: {decision.answer}")
        if isinstance(given, ResolveAsked):
            lie = given.request.container_id in self.truth.lies
            if given.request.given_up:
                self._named(given.request, decision)
                return
            if isinstance(decision.answer, Refusal) and self._is_over(given.request):
                if decision.events:
                    raise LawBrokenError(f"a start that is over is begun again: {decision}")
                return
            self._answered(given.request.key, decision.answer, now, lie=lie)

    def _too_late(self, given: Input, why: str) -> bool:
        """Whether a word may be refused: it is not true, of a start long forgotten, or of a deletion that was given up before."""
        report: Report | None = getattr(given, "report", None)
        if report is not None and isinstance(report.event, SnapshotDeleted):
            return report.event.command_id in self.finished
        if report is not None and str(report.report_id) in self.truth.forgeries:
            return True
        return "is long over" in why

    def starts(self, key: CheckpointKey) -> list[tuple[IncarnationNumber, NodeName]]:
        """Tell which starts of a key were opened, and where."""
        return [(event.incarnation, event.node) for (each, _), (event, _) in self.opened.items() if each == key]

    def stepped(self, state: State) -> None:
        """Compare the live state with what the log alone says."""
        if state != self.standby:
            raise LawBrokenError("the live state is not the fold of the log")

    def settled(self, state: State, now: datetime) -> None:
        """Check, after time was given to everything to come to its end, that it did."""
        for command in state.commands.values():
            raise LawBrokenError(f"command {command.command_id} has no end, at {now} past {command.deadline}")

    def _best(self, key: CheckpointKey, number: int, now: datetime) -> str | None:
        return best(self.of_key[key], number, now, self.lost, self.facts, self.captured_at)

    def _opened(self, event: IncarnationOpened, position: int) -> None:
        newest = max((number for key, number in self.opened if key == event.key), default=0)
        if event.incarnation != newest + 1:
            raise LawBrokenError(f"incarnation {event.incarnation} of {event.key} was opened after {newest}")
        self.opened[event.key, event.incarnation] = (event, position)

    def _chosen(self, event: RestoreChosen | ColdStartChosen, at: datetime, position: int) -> None:
        chosen = event.snapshot_id if isinstance(event, RestoreChosen) else None
        expected = self._best(event.key, event.incarnation, at)
        if chosen != expected:
            raise LawBrokenError(f"latest valid: {event} although the log says {expected}")
        self._no_step_back(event, chosen)
        before = self.choices.get((event.key, event.incarnation), (None, -1))
        void = (RestoreFailed, SnapshotInvalidated, SnapshotSuperseded, DumpFailed)
        withdrawn = {
            told.snapshot_id
            for told, _ in self.of_key[event.key]
            if isinstance(told, void)
            # Somebody wanted it gone while the node that was to restore it was lost.
            or (isinstance(told, SnapshotExpired) and told.snapshot_id in self.keeping.wanted_gone)
        }
        if before[1] >= 0 and before[0] not in withdrawn:
            raise LawBrokenError(f"told otherwise: {event} after {before}, which stands")
        if chosen in self.truth.forged:
            raise LawBrokenError(f"{event}, which was not taken where Kubernetes had the pod")
        if chosen is not None:
            self._not_too_late(event.key, event.incarnation, chosen)
        self.choices[event.key, event.incarnation] = (chosen, position)

    def _no_step_back(self, event: RestoreChosen | ColdStartChosen, chosen: str | None) -> None:
        """Compare with every snapshot that was valid before the start asked, in the order in which they were really taken."""
        start, opened = self.opened[event.key, event.incarnation]
        told = [told for told, _ in self.of_key[event.key]]
        gone = {one.snapshot_id for one in told if isinstance(one, SnapshotSuperseded | SnapshotExpired)}
        gone |= {
            one.snapshot_id
            for one in told
            if isinstance(one, SnapshotRetried)  # of these the model of the law knows more
            or (isinstance(one, RestoreFailed) and (one.incarnation == event.incarnation or one.node == start.node))
        }
        if chosen in self.keeping.of(event.key).pinned or (isinstance(event, ColdStartChosen) and event.fresh):
            return  # somebody wants to go back, or to start fresh
        floor = self._order(chosen) if chosen is not None else (0, 0)
        done = max((one.incarnation for one in told if _is_done(one)), default=0)
        fresh_since, _ = fresh_starts(self.of_key[event.key])
        for name, stored in self.stored_at.items():
            snapshot = self.truth.snapshots[name]
            if snapshot.key != event.key or stored > opened or name in gone or snapshot.content != "good":
                continue
            if snapshot.incarnation <= done or snapshot.incarnation < fresh_since:
                continue
            if misfit(snapshot.taken_on, snapshot.taken_from, self.facts[start.node], start.container):
                continue
            proven = sum(isinstance(one, SnapshotInvalidated) and one.snapshot_id == name for one in told)
            if self._order(name) > floor and not proven and not self.truth.tainted:
                raise LawBrokenError(f"step back: {event} although {name} was valid before it asked")

    def _order(self, name: str) -> tuple[int, int]:
        snapshot = self.truth.snapshots[name]
        return (snapshot.incarnation, snapshot.index)

    def _not_too_late(self, key: CheckpointKey, number: int, chosen: str) -> None:
        origin = self.truth.snapshots[chosen].incarnation
        known_at = min(at[chosen] for at in (self.stored_at, self.vouched) if chosen in at)
        if any(isinstance(told, SnapshotRetried) and told.snapshot_id == chosen for told, _ in self.of_key[key]):
            return  # somebody wants to go back
        line = self.keeping.of(key).line
        for ran, answered in self.truth.ran.get(key, ()):
            if origin < ran < number and answered < known_at and chosen not in line(ran):
                raise LawBrokenError(f"{chosen} is told to {number} although {ran} had gone on without it")

    def _deferred(self, event: StartDeferred, at: datetime) -> None:
        if (event.key, event.incarnation) in self.deferred:
            raise LawBrokenError(f"the wait of incarnation {event.incarnation} began twice")
        if event.until > at + timedelta(seconds=HANDOVER_SECONDS):
            raise LawBrokenError(f"a wait beyond its bound: {event} at {at}")
        self.deferred[event.key, event.incarnation] = event

    def _invalidated(self, event: SnapshotInvalidated) -> None:
        """A snapshot is condemned on proof, on two nodes' word, or because somebody wants it."""
        if event.snapshot_id in self.set_aside:
            return
        self._bytes_are_lost(event)
        failures = [
            told
            for told, _ in self.of_key[event.key]
            if isinstance(told, RestoreFailed) and told.snapshot_id == event.snapshot_id
        ]
        nodes = {
            failure.node
            for failure in failures
            if failure.stage is not RestoreStage.FETCH and failure.failure.code not in PASSING_CODES
        }
        if len(nodes) < 2 and not any(failure.failure.code in CONDEMNING_CODES for failure in failures):
            raise LawBrokenError(f"condemned without proof: {event}")

    def _bytes_are_lost(self, event: SnapshotInvalidated) -> None:
        """A snapshot whose bytes are whole somewhere is never invalidated for the sake of its bytes."""
        whole = self.truth.snapshots[event.snapshot_id].content == "good"
        if whole and not event.reason.startswith("restoring it failed on nodes"):
            raise LawBrokenError(f"condemned although every byte is there: {event}")

    def _finished(self, event: CommandFinished) -> None:
        command = event.command_id
        if command not in self.issued:
            raise LawBrokenError(f"command {command} ended and was never issued")
        if command in self.finished:
            raise LawBrokenError(f"command {command} ended twice")
        self.finished.add(command)
        if event.outcome is not Outcome.SUCCEEDED:
            return
        asked = self.issued[command].command
        if isinstance(asked, DeleteCommand):
            if self.truth.snapshots[asked.snapshot_id].content != "deleted":
                raise LawBrokenError(f"command {command} is said to have removed what is still there")
        elif isinstance(asked, DumpCommand) and command not in self.truth.stored_for:
            raise LawBrokenError(f"command {command} is said to have succeeded and stored nothing")

    def _of_create(self, request: ResolveRequest) -> list[int]:
        return [
            number
            for (key, number), (start, _) in self.opened.items()
            if (key, start.node, start.create_id) == (request.key, request.node, request.create_id)
        ]

    def _is_over(self, request: ResolveRequest) -> bool:
        """Whether the create that is asked about has its start, and that began to run or ended."""
        return any(number in self.keeping.of(request.key).begun for number in self._of_create(request))

    def _named(self, request: ResolveRequest, decision: Decision) -> None:
        """Who has given a start up learns its number if it is open, and begins nothing."""
        if decision.events or not isinstance(decision.answer, Refusal):
            raise LawBrokenError(f"more than its number is told of a start that was given up: {decision}")
        own = [number for number in self._of_create(request) if number not in self.keeping.of(request.key).begun]
        if decision.answer.incarnation != max(own, default=0):
            raise LawBrokenError(f"{decision.answer} is told of a start that was given up, of which {own} are open")

    def _answered(self, key: CheckpointKey, answer: Any, now: datetime, *, lie: bool) -> None:
        match answer:
            case RestoreFrom():
                said: str | None = answer.snapshot_id
                snapshot = self.truth.snapshots[answer.snapshot_id]
                known = self.vouched if answer.unstored else self.stored_at
                digest = local_digest(answer.snapshot_id) if answer.unstored else snapshot.digest
                if digest != answer.manifest_digest or answer.snapshot_id not in known:
                    raise LawBrokenError(f"{answer} is told and is not stored as said")
            case StartCold():
                said = None
            case WaitFor():
                begun = self.deferred.get((key, answer.incarnation))
                if begun is None or begun.until != answer.until or now >= answer.until:
                    raise LawBrokenError(f"a wait beyond its bound: {answer} at {now}, begun as {begun}")
                if self._best(key, answer.incarnation, now) != "wait":
                    raise LawBrokenError(f"a wait for nothing: {answer}")
                return
            case Refusal():
                if answer.failure.code != "superseded" and not (lie and answer.failure.code == "pod-not-here"):
                    raise LawBrokenError(f"a start was refused: {answer}")
                return
            case _:
                raise LawBrokenError(f"no answer: {answer}")
        if self.choices[key, answer.incarnation][0] != said:
            raise LawBrokenError(f"{answer} is told, and the log says {self.choices[key, answer.incarnation]}")
