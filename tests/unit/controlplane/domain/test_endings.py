"""What the ends of containers say about the next start: no restore loop, no way back into finished work, no snapshot barred for what passed."""

from __future__ import annotations

import pytest
from support.world import CORRUPT, KEY, World

from controlplane.domain.inputs import SnapshotAsked
from woodfrog.protocol.events import PodContainerEnded
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId
from woodfrog.protocol.pods import EndedBecause
from woodfrog.protocol.requests import RestoreFrom, SnapshotRequest, StartCold, WaitFor

pytestmark = pytest.mark.timeout(5)


def with_snapshots() -> World:
    """Return a world in which incarnation 1 left snapshot ``old`` and 2 left ``new``, each when its node went down."""
    world = World("a", "b")
    for name in ("old", "new"):
        number = world.run(name)
        world.snapshot(number, name)
        world.ended(number, exit_code=None)
    return world


def goes_on_from(world: World, container_id: str, node: str = "a") -> str | None:
    """Ask for a start; answer the snapshot that it resumes from."""
    answer = world.ask(container_id, node).answer
    assert isinstance(answer, RestoreFrom | StartCold), answer
    return answer.snapshot_id if isinstance(answer, RestoreFrom) else None


def live(
    world: World, container_id: str, seconds: float, exit_code: int | None, *, stopped: bool | None = False
) -> str | None:
    """Have a container live for so long and end; answer the snapshot that it resumed from."""
    chosen = goes_on_from(world, container_id)
    number = world.key.newest
    world.started(number)
    world.later(seconds)
    world.ended(number, exit_code=exit_code, stopped=stopped)
    return chosen


def wish(world: World, what: str, snapshot: str) -> None:
    request = SnapshotRequest(KEY.cluster, KEY.namespace, SnapshotId(snapshot), what)
    assert world.give(SnapshotAsked(request, world.source())).events, what


class TestRestoreLoop:
    def test_after_two_short_lives_the_snapshot_before_is_taken_and_at_last_none(self) -> None:
        world = with_snapshots()
        assert [live(world, f"c{turn}", 20, 1) for turn in range(5)] == ["new", "new", "old", "old", None]

    def test_the_reason_names_how_often_and_how_it_ended(self) -> None:
        world = with_snapshots()
        live(world, "c0", 20, 1)
        live(world, "c1", 20, 139)
        answer = world.ask("c2").answer
        assert isinstance(answer, RestoreFrom)
        assert (
            "the last 2 containers that resumed from it ended by themselves within 300 s, the last with exit code 139"
            in answer.reason
        )

    def test_one_that_lived_long_was_not_killed_by_its_restore(self) -> None:
        world = with_snapshots()
        lives = [(20.0, 1), (4000.0, 1), (20.0, 1)]
        assert [live(world, f"c{turn}", *life) for turn, life in enumerate(lives)] == ["new"] * 3
        assert goes_on_from(world, "last") == "new"

    @pytest.mark.parametrize(
        ("exit_code", "stopped"), [(137, False), (143, False), (1, True), (1, None), (None, False)], ids=str
    )
    def test_who_was_stopped_killed_or_ended_unseen_says_nothing_about_the_snapshot(
        self, exit_code: int | None, stopped: bool | None
    ) -> None:
        world = with_snapshots()
        assert [live(world, f"c{turn}", 20, exit_code, stopped=stopped) for turn in range(4)] == ["new"] * 4

    def test_one_that_ran_out_of_memory_by_itself_counts(self) -> None:
        world = with_snapshots()
        for turn in range(2):
            live(world, f"c{turn}", 20, 137)
            number = IncarnationNumber(world.key.newest)
            ended = {"because": EndedBecause.OOM_KILLED, "exit_code": 137}
            world.fold(PodContainerEnded(key=KEY, incarnation=number, pod="p", uid="u", container="c", **ended))
        assert goes_on_from(world, "last") == "old"

    def test_a_newer_snapshot_is_tried_for_itself(self) -> None:
        world = with_snapshots()
        live(world, "c0", 20, 1)
        assert goes_on_from(world, "c1") == "new"
        number = world.key.newest
        world.started(number)
        world.snapshot(number, "newest")
        world.ended(number, exit_code=1, stopped=False)
        assert goes_on_from(world, "c2") == "newest"

    @pytest.mark.parametrize("what", ["pin", "retry"])
    def test_people_may_insist(self, what: str) -> None:
        world = with_snapshots()
        for turn in range(2):
            live(world, f"c{turn}", 20, 1)
        wish(world, what, "new")
        assert goes_on_from(world, "last") == "new"


class TestFinishedWork:
    def test_the_next_start_is_cold_and_says_why(self) -> None:
        world = with_snapshots()
        live(world, "c", 4000, 0)
        answer = world.ask("next").answer
        assert isinstance(answer, StartCold)
        assert answer.reason.startswith(
            "no snapshot is usable; new skipped: incarnation 3 has done its work: it ended by itself, with exit code 0"
        )
        assert answer.unusable == 0, "nothing that anybody could want back"

    def test_a_new_run_that_is_lost_does_not_go_back_behind_its_beginning(self) -> None:
        world = with_snapshots()
        live(world, "c", 4000, 0)
        assert live(world, "again", 60, None) is None
        assert goes_on_from(world, "last") is None

    def test_a_new_run_goes_on_from_its_own_snapshots(self) -> None:
        world = with_snapshots()
        live(world, "c", 4000, 0)
        number = world.run("again")
        world.snapshot(number, "own")
        world.ended(number, exit_code=None)
        assert goes_on_from(world, "last") == "own"

    @pytest.mark.parametrize("stopped", [True, None])
    def test_who_ends_well_because_it_was_asked_to_has_not_finished(self, stopped: bool | None) -> None:
        world = with_snapshots()
        live(world, "c", 4000, 0, stopped=stopped)
        assert goes_on_from(world, "next") == "new"

    @pytest.mark.parametrize("what", ["pin", "retry"])
    def test_people_may_want_it_back(self, what: str) -> None:
        world = with_snapshots()
        live(world, "c", 4000, 0)
        wish(world, what, "new")
        assert goes_on_from(world, "next") == "new"


class TestFailedRestores:
    @pytest.mark.parametrize("code", ["address-taken", "file-missing", "rootfs-not-overlay", "out-of-memory"])
    def test_what_has_passed_does_not_count_at_the_next_start(self, code: str) -> None:
        world = with_snapshots()
        assert goes_on_from(world, "c") == "new"
        world.restore_failed(3, "new", Failure(code, "it was so", "Change it."))
        assert goes_on_from(world, "c") == "old", "not again in the same start"
        assert goes_on_from(world, "d") == "new"

    def test_no_number_of_nodes_where_the_place_was_wrong_invalidates_a_snapshot(self) -> None:
        world = with_snapshots()
        for node in "ab":
            assert goes_on_from(world, f"on-{node}", node) == "new"
            world.restore_failed(world.key.newest, "new", Failure("file-missing", "no file", "Mount it."))
        assert goes_on_from(world, "again") == "new"

    @pytest.mark.parametrize("what", ["pin", "retry"])
    def test_what_failed_is_tried_again_if_people_insist(self, what: str) -> None:
        world = with_snapshots()
        assert goes_on_from(world, "c") == "new"
        world.restore_failed(3, "new")
        assert goes_on_from(world, "d") == "old"
        wish(world, what, "new")
        assert goes_on_from(world, "e") == "new"

    def test_what_two_nodes_could_not_restore_is_valid_again_once_it_is_retried(self) -> None:
        world = with_snapshots()
        for node in "ab":
            goes_on_from(world, f"on-{node}", node)
            world.restore_failed(world.key.newest, "new")
        assert goes_on_from(world, "c") == "old"
        wish(world, "retry", "new")
        assert goes_on_from(world, "d") == "new"

    def test_one_that_is_heard_of_after_the_start_has_another_answer_is_believed_and_changes_nothing_of_it(
        self,
    ) -> None:
        world = with_snapshots()
        assert goes_on_from(world, "c") == "new"
        wish(world, "invalidate", "new")
        assert goes_on_from(world, "c") == "old"
        late = world.restore_failed(3, "new")
        assert late.rejected is None
        assert world.types()[-1] == "incarnation.restore-failed"
        assert goes_on_from(world, "c") == "old"

    def test_a_proof_counts_again_after_a_retry(self) -> None:
        world = with_snapshots()
        goes_on_from(world, "c")
        world.restore_failed(3, "new", CORRUPT)
        wish(world, "retry", "new")
        assert goes_on_from(world, "d") == "new"
        world.restore_failed(4, "new", CORRUPT)
        assert goes_on_from(world, "e") == "old"

    def test_what_failed_for_good_cannot_be_retried(self) -> None:
        world = World("a")
        number = world.run("c")
        world.dump(number, "s")
        world.dump_failed(number, "s")
        answer = world.give(
            SnapshotAsked(SnapshotRequest(KEY.cluster, KEY.namespace, SnapshotId("s"), "retry"), world.source())
        ).answer
        assert getattr(answer, "failure").code == "snapshot-not-valid"  # noqa: B009


def with_branches() -> World:
    """Return a world in which incarnation 2 ran beside 1 and left ``newer``, while what 1 left is superseded."""
    world = World("a", "b")
    first, second = world.run("one"), world.run("two", "b")
    world.snapshot(second, "newer")
    world.ended(second, exit_code=None)
    world.snapshot(first, "late")
    world.ended(first, exit_code=None)
    assert world.key.snapshots[SnapshotId("late")].status == "superseded"
    return world


def with_a_cold_start_beside() -> World:
    """Return a world in which incarnation 1 runs, and 2 was answered to start cold without having waited for more of it."""
    world = World("a", "b")
    world.run("one")
    assert isinstance(world.ask("two", "b").answer, WaitFor)
    world.later(121)
    assert goes_on_from(world, "two", "b") is None
    return world


class TestSuperseded:
    """What another start went on without is passed over until people want it back."""

    def test_a_pin_goes_back_to_it(self) -> None:
        world = with_branches()
        assert goes_on_from(world, "c") == "newer"
        wish(world, "pin", "late")
        assert goes_on_from(world, "d") == "late"

    def test_a_pin_from_before_is_set_once_more(self) -> None:
        world = with_a_cold_start_beside()
        world.snapshot(1, "late")
        wish(world, "pin", "late")
        world.started(2)
        assert world.key.snapshots[SnapshotId("late")].status == "superseded"
        wish(world, "pin", "late")
        assert goes_on_from(world, "d") == "late"

    def test_a_retry_makes_it_one_of_the_others_by_its_age(self) -> None:
        world = with_branches()
        wish(world, "retry", "late")
        assert goes_on_from(world, "c") == "newer"
        wish(world, "invalidate", "newer")
        assert goes_on_from(world, "d") == "late"

    def test_the_start_of_a_lost_node_that_never_ran_costs_nothing_that_people_want_back(self) -> None:
        world = with_a_cold_start_beside()
        world.silent("b")
        world.snapshot(1, "late")
        world.ended(1, exit_code=None)
        assert goes_on_from(world, "three") is None
        wish(world, "retry", "late")
        assert goes_on_from(world, "four") == "late"

    @pytest.mark.parametrize("when", ["before its start", "before it is stored"])
    def test_what_is_retried_is_not_superseded_by_a_start_from_before(self, when: str) -> None:
        world = with_a_cold_start_beside()
        if when == "before its start":
            world.snapshot(1, "late")
            wish(world, "retry", "late")
            world.started(2)
        else:
            world.dump(1, "late")
            world.captured(1, "late")
            world.delayed(1, "late")
            world.started(2)
            wish(world, "retry", "late")
            world.stored(1, "late")
        assert world.key.snapshots[SnapshotId("late")].status == "valid"
        world.ended(2, exit_code=None)
        assert goes_on_from(world, "three") == "late"
