"""Thousands of worlds in which nothing can be relied upon, and laws that hold in all of them."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.domain import State, evolve
from simulation.campaign import STEPS, Broken, play, play_many
from simulation.mutation import mutated
from simulation.network import Record

QUICK = 300
FULL = 10_000
FULL_CPU_SECONDS = 600.0
"""Five minutes of two cores, however busy they are with something else."""


def test_no_law_is_broken_in_a_few_hundred_worlds() -> None:
    played = play_many(0, QUICK)
    assert played.broken == [], "\n".join(problem.told(STEPS) for problem in played.broken[:5])
    assert played.events > 40 * QUICK, "worlds in which little happens prove little"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_law_is_broken_in_ten_thousand_worlds_within_five_minutes() -> None:
    played = play_many(QUICK, FULL)
    print(
        f"{FULL} worlds of {STEPS} steps, {played.events} events, {played.wall_seconds:.0f} s, {played.cpu_seconds:.0f} s of CPU"
    )
    assert played.broken == [], "\n".join(problem.told(STEPS) for problem in played.broken[:5])
    assert played.cpu_seconds < FULL_CPU_SECONDS


def test_a_world_is_the_same_each_time_it_is_played() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "7", "--trace"],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) > 50


MUTANTS = {
    "the oldest snapshot is taken": (".incarnation)[::-1]", ".incarnation)"),
    "dumps in flight are not waited for": ("if now < until:", "if False:"),
    "a wait has no end": ("if now < until:", "if True:"),
    "asking again prolongs the wait": ("start.wait_until or now", "now"),
    "a lost node is waited for": ("node.lost and snapshot", "False and snapshot"),
    "what does not fit is taken": ("return against or asker.misfit(", "return against or None and asker.misfit("),
    "what failed in this start is tried again": ("snapshot.snapshot_id in start.set_aside", "False"),
    "what failed on this node is tried again": (
        "image_of(asker.container)) in snapshot.failed_on",
        "image_of(asker.container)) in ()",
    ),
    "what passes counts for ever": ("and event.failure.code not in PASSING_CODES", "and True"),
    "work that is done is begun in its middle": (
        "if snapshot.incarnation <= key.done_through",
        "if False and key.done_through",
    ),
    "a late dump is not superseded": ("snapshot.missed_by <= self.latest_start", "False"),
    "only a start that was reported is a start": ("each.number < newest and each.choice is not None", "False"),
    "what comes late is not noted as late": ("if key.misses(later, snapshot):", "if False:"),
    "what is retried is superseded all the same": (
        "max(snapshot.incarnation, snapshot.retried_at)",
        "snapshot.incarnation",
    ),
    "what is retried stays ruled out": ("if known.status in RULED_OUT else", "if False else"),
    "what is late when it is retried stays late": ("failed_on=frozenset(), missed_by=None,", "failed_on=frozenset(),"),
    "a start that came to nothing holds back others": ("return self.never_ran and not self.started", "return False"),
    "a question that comes late opens another start": ("if request.create_id and start.create_id:", "if False:"),
    "who has given a start up opens it": ("if request.given_up or is_over:", "if is_over:"),
    "another node is told what it does not hold": ("and self.node == node", ""),
    "a capture is restored behind a start that left it": ("if not key.has_a_future(snapshot):", "if False:"),
    "a command's end is taken in again": ("return event.command_id not in state.commands", "return False"),
    "an open command does not expire": ("if now >= command.deadline", "if False"),
    "a command ends although it has ended": ("open_commands.pop(event.command_id, None)", "pass"),
    "one failure condemns": ("elif len(nodes) > 1", "elif nodes"),
    "a proof does not condemn": ("if event.failure.code in CONDEMNING_CODES", "if False"),
    "what an empty directory lacks condemns": (
        "if event.store is None:\n        return False",
        "if event.store is None:\n        return True",
    ),
    "another store is asked to delete": ("and (holds is None or node.facts.store == holds)", "and True"),
    "the last snapshot that is known to restore expires": (
        "latest_valid(key), latest_proved(key)",
        "latest_valid(key), None",
    ),
    "silence is not heard": ("node.worker_id != silence.worker_id", "True"),
    "a decision changes the state": (
        "match given:\n        case ReportReceived(",
        "state.nodes.clear()\n    match given:\n        case ReportReceived(",
    ),
    "what was told is told otherwise": ("newest.choice is not None and", "False and"),
    "an older start goes on beside the newer": ("number < newest.number", "False"),
    "a true word is not believed": ("event.node != report.node", "event.node == 'b'"),
    "a dump that was captured is not waited for": (
        "SnapshotStatus.DUMPING, SnapshotStatus.CAPTURED",
        "SnapshotStatus.DUMPING",
    ),
    "a pin does not win": ("key=lambda snapshot: not snapshot.pinned", "key=lambda snapshot: 0"),
    "what is unpinned stays pinned": ('{"pinned": False}', '{"pinned": True}'),
    "what is pinned expires": ("spared = snapshot.pinned or", "spared ="),
    "what is pinned counts among the last": (
        "snapshot.missed_by is not None or snapshot.pinned",
        "snapshot.missed_by is not None",
    ),
    "what is pinned is deleted": ("if snapshot.pinned:\n        return refuse(", "if False:\n        return refuse("),
    "the latest expires": ("needed = latest_valid(key),", "needed = None,"),
    "the latest is deleted though nobody insists": ("snapshot is latest_valid(key) and not wish.force", "False"),
    "what is being restored expires": ("if start.resumes_from is not None", "if False"),
    "what is being restored is deleted": ("if snapshot.snapshot_id in in_use(", "if False and in_use("),
    "what may yet be the latest expires": (
        "snapshot.status is not SnapshotStatus.VALID or snapshot.missed_by is not None",
        "snapshot.status is not SnapshotStatus.VALID",
    ),
    "what has expired is chosen": (
        "status is not None and moves_on(",
        "status not in {None, SnapshotStatus.EXPIRED} and moves_on(",
    ),
    "what was invalidated is chosen": (
        "status is not None and moves_on(",
        "status not in {None, SnapshotStatus.INVALIDATED} and moves_on(",
    ),
    "the policy at large counts most": ("by_id or self.namespaces", "self.default or self.namespaces"),
    "one too few is kept": ("rank < keep.last", "rank < keep.last - 1"),
    "one too many is kept": ("rank < keep.last", "rank <= keep.last"),
    "what is young expires": ("not _older(snapshot, keep.seconds, now)", "False"),
    "there is less room than was said": ("kept_bytes += snapshot.stored_bytes", "kept_bytes += 4"),
    "two delete one snapshot at once": ("and snapshot.deleting is None", "and True"),
    "what has expired is deleted before its time": (
        "snapshot.delete_after is None or now >= snapshot.delete_after",
        "True",
    ),
    "a deletion that failed is not tried again": (
        "deleting=None,\n        deletes_failed",
        "deleting=snapshot.deleting,\n        deletes_failed",
    ),
    "a schedule does not see a dump under way": ("if any(dump.incarnation == start.number", "if any(False"),
    "a schedule does not see an open command": ("start.opened_at is None or start.dump_command is not None", "False"),
    "a schedule asks too soon": ("seconds=_spaced(interval_seconds", "seconds=_spaced(0.5 * interval_seconds"),
    "a schedule passes over what a container says": ("if seconds is None:", "if True:"),
    "a schedule gives up after a failure": ("return min(longer,", "return 1e8 if failed else min(longer,"),
    "a node is believed about where a pod is": ("if pod.node != request.node", "if False"),
    "a worker that was thought dead stays so": (
        "(node.lost or heartbeat.worker_id not in",
        "(heartbeat.worker_id not in",
    ),
}
BOUND = 1500
"""Worlds within which every mutant must be found."""


def found_in() -> Broken | None:
    return next((broken for seed in range(BOUND) if (broken := play(seed)[1]) is not None), None)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_deliberate_breakage_is_found(name: str) -> None:
    with mutated(*MUTANTS[name]):
        assert found_in() is not None, f"{BOUND} worlds did not show that {name}"


def test_a_state_taken_at_any_point_and_carried_on_is_the_state_folded_from_the_start() -> None:
    for seed in range(40):
        world, broken = play(seed)
        assert broken is None
        whole = world.log.fold()
        for cut in range(0, len(world.log.records), 7):
            state = _folded(world.log.records[:cut])
            carried = copy.deepcopy(state)
            for record in world.log.records[cut:]:
                evolve(carried, record.event(), record.at)
            assert carried == whole == world.plane.state
            assert state == _folded(world.log.records[:cut]), "carrying on changed what it was carried on from"


def _folded(records: list[Record]) -> State:
    state = State()
    for record in records:
        evolve(state, record.event(), record.at)
    return state
