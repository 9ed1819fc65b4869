"""Random lives of one id, against a model of the selection law that is read off the log alone.

The inputs are drawn without regard to what is likely: dumps of containers that never started, reports on the wrong node,
failures of what nobody chose. Whatever is believed of that must keep the law.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.world import BROKEN, CORRUPT, World, stored_event

from controlplane.domain import Decision, State, evolve
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
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotInvalidated,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    StartDeferred,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.requests import Refusal, RestoreFrom, StartCold, WaitFor

NODES = "ab"
SNAPSHOTS = [f"s{number}" for number in range(8)]
Log = list[tuple[Event, datetime]]
Step = tuple[str, int, int]


def recent(world: World, pick: int) -> int:
    """Name the newest incarnation or the one before, or 0 if there is none."""
    opened = [event.incarnation for event, _ in world.log if isinstance(event, IncarnationOpened)]
    return opened[-1 - (pick // 3) % min(2, len(opened))] if opened else 0


def commands(world: World) -> list[str]:
    return [event.command.command_id for event, _ in world.log if isinstance(event, CommandIssued)]


def some_command(world: World, pick: int) -> str | None:
    """Name one of the last commands, finished or not."""
    return next(iter(commands(world)[-1 - pick % 3 :]), None)


def fail_to_restore(world: World, number: int, pick: int, which: int) -> Decision:
    chosen = [event.snapshot_id for event, _ in world.log if isinstance(event, RestoreChosen)]
    snapshot = chosen[-1] if chosen else SNAPSHOTS[which]
    return world.restore_failed(number, snapshot, CORRUPT if pick == 0 else BROKEN, list(RestoreStage)[which % 3])


def ask_again(world: World, number: int) -> Decision:
    start = world.opened(number)
    return world.ask(start.container_id, start.node, container=start.container)


ANY_TIME: dict[str, Callable[[World, int, int], Decision]] = {
    "ask": lambda world, pick, which: world.ask(f"c{pick}", NODES[which % 2]),
    # A container's declaration does not change, so those that ask to start fresh are others than those that do not.
    "ask fresh": lambda world, pick, which: world.ask(
        f"f{pick}", NODES[which % 2], container=ContainerFacts(fresh=f"wish-{pick % 2}")
    ),
    "checkpoint": lambda world, pick, which: world.checkpoint(f"k{len(commands(world))}", timeout_seconds=40),
    "silence": lambda world, pick, which: world.silent(NODES[which % 2]),
    "heartbeat": lambda world, pick, which: world.heard(NODES[which % 2]),
    "restart worker": lambda world, pick, which: world.register(NODES[which % 2], worker=f"life-{pick}"),
    "time": lambda world, pick, which: world.later(15.0 * pick),
}
OF_AN_INCARNATION: dict[str, Callable[[World, int, int, int], Decision]] = {
    "ask again": lambda world, number, pick, which: ask_again(world, number),
    "start": lambda world, number, pick, which: world.started(number),
    "end": lambda world, number, pick, which: world.ended(number, never_ran=which % 2 == 0),
    "fail to restore": fail_to_restore,
    "lie": lambda world, number, pick, which: world.report(
        stored_event(**world.about(number, SNAPSHOTS[which])), node=NODES[which % 2]
    ),
}
OF_A_SNAPSHOT: dict[str, Callable[[World, int, str, int], Decision]] = {
    "dump": lambda world, number, snapshot, pick: world.dump(number, snapshot, final=pick % 2 == 0),
    "capture": lambda world, number, snapshot, pick: world.captured(number, snapshot),
    "delay": lambda world, number, snapshot, pick: world.delayed(number, snapshot, vouched=pick != 0),
    "store": lambda world, number, snapshot, pick: world.stored(number, snapshot, command=some_command(world, pick)),
    "fail": lambda world, number, snapshot, pick: world.dump_failed(
        number, snapshot, command=some_command(world, pick)
    ),
}


def play(world: World, step: Step) -> Decision:
    """Carry one step out, if anything was opened that it could be about."""
    action, pick, which = step
    if action in ANY_TIME:
        return ANY_TIME[action](world, pick, which)
    number = recent(world, pick)
    if not number:
        return Decision()
    if action in OF_AN_INCARNATION:
        return OF_AN_INCARNATION[action](world, number, pick, which)
    snapshot = SNAPSHOTS[which]
    taken_from = (getattr(event, "incarnation", 0) for event, _ in world.log if names(event, snapshot))
    return OF_A_SNAPSHOT[action](world, next(taken_from, number), snapshot, pick)


_ABOUT_A_DUMP = DumpStarted | SnapshotCaptured | SnapshotStoreDelayed | SnapshotStored | DumpFailed


def names(event: Event, snapshot: str) -> bool:
    return isinstance(event, _ABOUT_A_DUMP) and (event.snapshot_id == snapshot)


def played(steps: list[Step]) -> World:
    world = World(*NODES)
    for step in steps:
        play(world, step)
    return world


ACTIONS = [
    *("ask", "ask again", "start", "dump", "store", "fail to restore", "checkpoint") * 3,
    *("capture", "end", "fail", "silence", "heartbeat", "restart worker", "time", "lie", "ask fresh"),
    *("delay",) * 3,
]
# At least 25, because lists of any length are mostly too short for a second incarnation to come to anything.
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5), st.integers(0, 7)), min_size=25, max_size=60)
often = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def replayed(log: Log) -> State:
    state = State()
    for event, at in log:
        evolve(state, event, at)
    return state


def of(log: Log, kind: type[Any]) -> list[tuple[int, Any]]:
    return [(place, event) for place, (event, _) in enumerate(log) if isinstance(event, kind)]


def gone_ahead(log: Log) -> int:
    """The newest incarnation that started, dumped, or had its answer when a newer one was opened and is not said to have never run."""
    ran, overtaken, never_ran, answered = set[int](), set[int](), set[int](), set[int]()
    ended = set[int]()
    for event, _ in log:
        match event:
            case RestoreChosen() | ColdStartChosen():
                answered.add(event.incarnation)
            case RestoreFailed():
                answered.discard(event.incarnation)
            case ContainerStarted() | DumpStarted():
                ran.add(event.incarnation)
            case IncarnationOpened():
                overtaken |= {n for n in answered if n < event.incarnation}
            case ContainerEnded() if event.incarnation not in ended:
                ended.add(event.incarnation)
                never_ran |= {event.incarnation} if event.never_ran else set()
    return max(ran | (overtaken - never_ran), default=0)


def old_here(log: Log, number: int, before: int, node: str) -> set[str]:
    """Captures that this node could restore, from before a dump was asked for on behalf of this start, or with none asked for yet."""
    captured_at: dict[str, datetime] = {}
    vouched, asked_at, opened = set[str](), None, False
    for event, at in log:
        match event:
            case IncarnationOpened():
                opened = event.incarnation >= number
            case CommandIssued() if event.incarnation == before and opened:
                asked_at = event.command.issued_at
            case SnapshotCaptured() | SnapshotStoreDelayed():
                captured_at.setdefault(event.snapshot_id, at)
                if isinstance(event, SnapshotStoreDelayed) and event.manifest_digest and event.node == node:
                    vouched.add(event.snapshot_id)
            case _:
                pass
    return {name for name in vouched if asked_at is None or captured_at[name] <= asked_at}


def first_delays(about: list[tuple[int, Any]]) -> dict[str, int]:
    """When each capture was first said to wait for its store."""
    found: dict[str, int] = {}
    for place, event in about:
        if isinstance(event, SnapshotStoreDelayed):
            found.setdefault(event.snapshot_id, place)
    return found


def runs_on(log: Log, number: int, lost: dict[str, bool]) -> bool:
    """Whether the container before still runs, as far as the log says, and its node must be asked to dump it, or has been."""
    opened = {event.incarnation: (place, event) for place, event in of(log, IncarnationOpened)}
    asked_at, me = opened[number]
    before = gone_ahead(log)
    if not 0 < before < number:
        return False
    about = [(place, e) for place, (e, _) in enumerate(log) if getattr(e, "incarnation", 0) == before]
    where = opened[before][1].node
    over = {e.snapshot_id for _, e in about if isinstance(e, DumpFailed | SnapshotStored)}
    dumps = [e for _, e in about if isinstance(e, DumpStarted | SnapshotCaptured | SnapshotStoreDelayed)]
    if (
        not any(isinstance(e, ContainerStarted | DumpStarted) for _, e in about)
        or any(isinstance(e, ContainerEnded) for _, e in about)
        or any(isinstance(e, DumpStarted) and e.final for e in dumps)
        or any(e.snapshot_id not in over | old_here(log, number, before, me.node) for e in dumps)
        or (lost[where] and where != me.node)
    ):
        return False
    issued = [(place, e.command.command_id) for place, e in about if isinstance(e, CommandIssued)]
    finished = {e.command_id for _, e in about if isinstance(e, CommandFinished)}
    # From then on the dump was taken, and its command waits for the store alone.
    answered = max(first_delays(about).values(), default=-1)
    unfinished = any(command not in finished and place > answered for place, command in issued)
    return unfinished or not any(place > asked_at for place, _ in issued)


def fresh_starts(log: Log) -> tuple[int, set[str]]:
    """The newest incarnation that started fresh because it was asked for, and the wishes that are used up."""
    wishes = {event.incarnation: event.container.fresh for _, event in of(log, IncarnationOpened)}
    chosen, since, used = set[int](), 0, set[str]()
    for event, _ in log:
        match event:
            case ColdStartChosen(fresh=True):
                chosen.add(event.incarnation)
            case ColdStartChosen() | RestoreChosen() | RestoreFailed():
                chosen.discard(event.incarnation)
            case ContainerStarted() | DumpStarted() if event.incarnation in chosen and event.incarnation > since:
                since = event.incarnation
                used.add(wishes[event.incarnation])
    return since, used


def line(log: Log, number: int) -> set[str]:
    """All snapshots that a start resumes from: the one that it was restored from, the one that was before that, and so on."""
    found = set[str]()
    while number:
        chosen: str | None = None
        for event, _ in log:
            if isinstance(event, RestoreChosen | ColdStartChosen | RestoreFailed) and event.incarnation == number:
                chosen = event.snapshot_id if isinstance(event, RestoreChosen) else None
        if (
            chosen is None or chosen in found
        ):  # a start may be reported to have dumped before it is answered, and then resume from that
            break
        found.add(chosen)
        number = next(event.incarnation for event, _ in log if names(event, chosen))
    return found


def best(  # noqa: C901 -- a model is believed if it can be read at one go
    log: Log, number: int, now: datetime
) -> str | None:
    """The model: the latest snapshot that is valid and has not failed here, or ``wait`` if a later one is in flight."""
    me = next(event for _, event in of(log, IncarnationOpened) if event.incarnation == number)
    node = me.node
    since, used = fresh_starts(log)
    if me.container.fresh and me.container.fresh not in used:
        return None
    over = {e.snapshot_id for kind in (SnapshotSuperseded, SnapshotInvalidated, DumpFailed) for _, e in of(log, kind)}
    tried = {
        e.snapshot_id
        for _, e in of(log, RestoreFailed)
        if e.incarnation == number or (e.node == node and e.stage is not RestoreStage.FETCH)
    }
    written = {event.snapshot_id for _, event in of(log, SnapshotStored)}
    vouched = {event.snapshot_id for _, event in of(log, SnapshotStoreDelayed) if event.manifest_digest}
    order: dict[str, tuple[int, int, str]] = {}
    lost: dict[str, bool] = {}
    for place, (event, _) in enumerate(log):
        if isinstance(event, _ABOUT_A_DUMP):
            order.setdefault(event.snapshot_id, (event.incarnation, place, event.node))
        if isinstance(event, NodeLost | NodeReturned | NodeRegistered):
            lost[event.node] = isinstance(event, NodeLost)
    until = next((event.until for _, event in of(log, StartDeferred) if event.incarnation == number), None)
    if (until is None or now < until) and runs_on(log, number, lost):
        return "wait"
    for snapshot, (origin, _, where) in sorted(order.items(), key=lambda item: item[1], reverse=True):
        if snapshot in over | tried or origin < since:
            continue
        if snapshot in written:
            return snapshot
        if origin < (ahead := gone_ahead(log)) and snapshot not in line(log, ahead):
            continue
        if where == node and snapshot in vouched:
            return snapshot
        if (until is None or now < until) and (where == node or not lost[where]):
            return "wait"
    return None


@often
@given(STEPS)
def test_every_choice_is_the_latest_valid_snapshot_or_a_wait_for_a_later_one(steps: list[Step]) -> None:
    log = played(steps).log
    for place, (event, at) in enumerate(log):
        match event:
            case RestoreChosen(snapshot_id=snapshot):
                assert snapshot == best(log[:place], event.incarnation, at)
            case ColdStartChosen():
                assert best(log[:place], event.incarnation, at) is None
            case StartDeferred():
                assert best(log[:place], event.incarnation, at) == "wait"


@often
@given(STEPS)
def test_no_start_steps_back_to_a_branch_that_a_later_start_has_left(steps: list[Step]) -> None:
    log = played(steps).log
    for place, choice in of(log, RestoreChosen):
        past = log[:place]
        assert choice.snapshot_id not in {event.snapshot_id for _, event in of(past, SnapshotSuperseded)}
        assert choice.snapshot_id not in {event.snapshot_id for _, event in of(past, SnapshotInvalidated)}
        known = of(past, SnapshotStored) + of(past, SnapshotStoreDelayed)
        (stored, snapshot), *_ = [(p, e) for p, e in known if e.snapshot_id == choice.snapshot_id]
        ahead = {e.incarnation for _, e in of(past[:stored], ContainerStarted)}
        ahead = {number for number in ahead if choice.snapshot_id not in line(past, number)}
        assert not any(snapshot.incarnation < number < choice.incarnation for number in ahead)


@often
@given(STEPS)
def test_what_is_not_stored_is_told_to_nobody_but_the_node_that_vouches_for_it(steps: list[Step]) -> None:
    world = World(*NODES)
    for step in steps:
        answer = play(world, step).answer
        if not isinstance(answer, RestoreFrom):
            continue
        stored = {event.snapshot_id for _, event in of(world.log, SnapshotStored)}
        assert answer.unstored == (answer.snapshot_id not in stored)
        node = world.opened(answer.incarnation).node
        for _, delayed in of(world.log, SnapshotStoreDelayed):
            if answer.unstored and delayed.snapshot_id == answer.snapshot_id and delayed.manifest_digest:
                assert (delayed.node, delayed.manifest_digest) == (node, answer.manifest_digest)


@often
@given(STEPS)
def test_only_what_a_later_start_could_not_know_is_superseded_and_that_once(steps: list[Step]) -> None:
    world = played(steps)
    superseded = [event for _, event in of(world.log, SnapshotSuperseded)]
    assert len({event.snapshot_id for event in superseded}) == len(superseded)
    for event in superseded:
        stored = next(place for place, e in of(world.log, SnapshotStored) if e.snapshot_id == event.snapshot_id)
        answers = of(world.log[:stored], RestoreChosen) + of(world.log[:stored], ColdStartChosen)
        ran = of(world.log[:stored], DumpStarted) + of(world.log[:stored], ContainerStarted)
        assert event.by > event.incarnation
        assert event.by in {e.incarnation for _, e in answers + ran}


@often
@given(STEPS)
def test_a_command_ends_once_and_only_after_it_was_issued(steps: list[Step]) -> None:
    world = played(steps)
    open_commands: set[str] = set()
    for event, _ in world.log:
        if isinstance(event, CommandIssued):
            assert event.command.command_id not in open_commands
            open_commands.add(event.command.command_id)
        if isinstance(event, CommandFinished):
            open_commands.remove(event.command_id)
    assert open_commands == set(world.state.commands)


@often
@given(STEPS)
def test_the_state_folded_live_is_the_state_replayed_from_zero_at_every_step(steps: list[Step]) -> None:
    world = World(*NODES)
    for step in steps:
        play(world, step)
        assert replayed(world.log) == world.state


@often
@given(STEPS)
def test_incarnations_are_numbered_without_gaps_and_opened_once(steps: list[Step]) -> None:
    world = played(steps)
    opened = [event.incarnation for _, event in of(world.log, IncarnationOpened)]
    assert opened == list(range(1, len(opened) + 1))


@often
@given(STEPS, st.data())
def test_what_is_reported_again_is_not_recorded_again(steps: list[Step], data: st.DataObject) -> None:
    world = World(*NODES)
    told = (NodeRegistered, ContainerStarted, DumpStarted, SnapshotCaptured, SnapshotStored, DumpFailed, RestoreFailed)
    for step in steps:
        play(world, step)
        reports = [event for event, _ in world.log if isinstance(event, told)]
        event = data.draw(st.sampled_from(reports))
        worker = event.worker_id if isinstance(event, NodeRegistered) else None
        assert world.report(event, worker=worker).events == ()


@often
@given(STEPS, st.randoms(use_true_random=False))
def test_a_log_in_any_order_can_be_folded_and_decided_upon(steps: list[Step], chance: Random) -> None:
    world = played(steps)
    shuffled = world.log.copy()
    chance.shuffle(shuffled)
    world.state = replayed(shuffled[::2] + shuffled)
    for node in NODES:
        answer = world.ask("a new container", node).answer
        assert isinstance(answer, RestoreFrom | StartCold | WaitFor | Refusal)
    world.checkpoint("k")
