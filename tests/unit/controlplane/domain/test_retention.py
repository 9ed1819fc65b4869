"""Which snapshots expire, and which never do, whatever a policy says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.world import BROKEN, CORRUPT, KEY, NOON, World, types

from controlplane.domain import Keep, Policy, Retention, SnapshotAsked, SnapshotStatus
from controlplane.domain.retention import expiries, in_use
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import CommandFinished, CommandIssued, Outcome, SnapshotDeleted, SnapshotExpired
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.requests import Refusal, SnapshotRequest

pytestmark = pytest.mark.timeout(5)

GRACE_SECONDS = 100.0


def keeping(**keep: Any) -> Policy:
    return Policy(retention=Retention(default=Keep(**keep), grace_seconds=GRACE_SECONDS, unusable_seconds=1000.0))


def running(policy: Policy, *nodes: str) -> World:
    world = World(*(nodes or ("a", "b")), policy=policy)
    world.run("c1")
    return world


def statuses(world: World) -> dict[str, str]:
    return {name: str(snapshot.status) for name, snapshot in world.key.snapshots.items()}


def wish(world: World, what: str, snapshot: str, *, force: bool = False, namespace: str = "default") -> Any:
    request = SnapshotRequest(
        cluster=KEY.cluster, namespace=namespace, snapshot_id=SnapshotId(snapshot), wish=what, force=force  # type: ignore[arg-type]
    )  # fmt: skip
    return world.give(SnapshotAsked(request, world.source()))


def code(decision: Any) -> str:
    assert isinstance(decision.answer, Refusal), decision
    return decision.answer.failure.code


def deletions(world: World) -> list[DeleteCommand]:
    return [
        event.command
        for event, _ in world.log
        if isinstance(event, CommandIssued) and isinstance(event.command, DeleteCommand)
    ]


def deleted(world: World, command: DeleteCommand, *, node: str | None = None) -> Any:
    teller = node or command.node
    event = SnapshotDeleted(
        key=command.key,
        incarnation=command.incarnation,
        snapshot_id=command.snapshot_id,
        node=teller,  # type: ignore[arg-type]
        command_id=command.command_id,
    )
    return world.report(event, node=teller)


def test_without_a_policy_nothing_ever_expires() -> None:
    world = running(Policy())
    for number in range(20):
        world.snapshot(1, f"s{number}")
    world.later(10 * 365 * 86400)
    assert set(statuses(world).values()) == {"valid"}


def test_the_last_n_are_kept_and_the_others_expire_when_a_newer_one_is_stored() -> None:
    world = running(keeping(last=2))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    assert types(world.snapshot(1, "s3")) == ["snapshot.stored", "snapshot.expired"]
    assert statuses(world) == {"s1": "expired", "s2": "valid", "s3": "valid"}


def test_what_is_younger_than_the_time_is_kept_even_if_there_are_many() -> None:
    world = running(keeping(last=1, seconds=60.0))
    world.snapshot(1, "s1")
    world.later(40)
    world.snapshot(1, "s2")
    world.snapshot(1, "s3")
    assert set(statuses(world).values()) == {"valid"}
    world.later(25)
    assert statuses(world) == {"s1": "expired", "s2": "valid", "s3": "valid"}


def test_bytes_are_a_ceiling_under_which_the_newest_stay() -> None:
    world = running(keeping(bytes=1200))  # each has 500
    for name in ("s1", "s2", "s3"):
        world.snapshot(1, name)
    assert statuses(world) == {"s1": "expired", "s2": "valid", "s3": "valid"}


def test_the_latest_valid_one_stays_however_old_and_large_it_is() -> None:
    world = running(keeping(seconds=1.0, bytes=1))
    world.snapshot(1, "s1")
    world.later(1e9)
    assert statuses(world) == {"s1": "valid"}


def test_a_pinned_one_stays_and_does_not_count() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    wish(world, "pin", "s1")
    for name in ("s2", "s3"):
        world.snapshot(1, name)
    assert statuses(world) == {"s1": "valid", "s2": "expired", "s3": "valid"}
    wish(world, "unpin", "s1")
    world.later(1)
    assert statuses(world)["s1"] == "expired"


def test_one_that_a_container_is_being_restored_from_stays_until_it_runs() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.ended(1)
    world.ask("c2")
    world.snapshot(1, "s2", final=True)  # comes late: incarnation 2 has its answer
    world.later(10_000)
    assert statuses(world)["s1"] == "valid"
    world.started(2)
    world.snapshot(2, "s3")
    assert statuses(world)["s1"] == "expired"


def test_an_older_one_that_a_container_fell_back_to_stays_until_it_runs() -> None:
    world = running(keeping(seconds=60.0))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.ended(1)
    world.ask("c2")
    world.restore_failed(2, "s2")
    assert getattr(world.ask("c2").answer, "snapshot_id", None) == "s1"
    world.later(10_000)
    assert statuses(world) == {"s1": "valid", "s2": "valid"}
    world.started(2)
    world.later(1)
    assert statuses(world) == {"s1": "expired", "s2": "valid"}


def test_what_can_never_be_chosen_again_goes_after_a_while_if_there_is_a_policy() -> None:
    for policy, fate in ((keeping(last=5), "expired"), (Policy(), "invalidated")):
        world = running(policy)
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        wish(world, "invalidate", "s1")
        world.later(999)
        assert statuses(world)["s1"] == "invalidated"
        world.later(2)
        assert statuses(world)["s1"] == fate


def test_the_most_specific_policy_holds_alone() -> None:
    retention = Retention(
        default=Keep(last=1), namespaces={"default": Keep(last=2)}, ids={("default", "trainer"): Keep(seconds=5.0)}
    )
    assert retention.of(KEY) == Keep(seconds=5.0)
    assert retention.of(CheckpointKey("lab", "default", "other")) == Keep(last=2)
    assert retention.of(CheckpointKey("lab", "elsewhere", "trainer")) == Keep(last=1)


def test_an_expired_snapshot_is_never_chosen_and_deleted_after_the_grace_only() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.later(GRACE_SECONDS - 1)
    assert deletions(world) == []
    world.later(1)
    (command,) = deletions(world)
    assert (command.snapshot_id, command.node) == ("s1", "a")
    assert types(deleted(world, command)) == ["snapshot.deleted", "command.finished"]
    assert statuses(world)["s1"] == "deleted"
    world.restore_failed(world.run("c2"), "s2")
    world.later(100_000)
    assert len(deletions(world)) == 1


def test_an_expired_snapshot_is_no_way_out_of_a_failed_restore() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.ended(1)
    world.ask("c2")
    world.restore_failed(2, "s2", CORRUPT)
    reason = getattr(world.ask("c2").answer, "reason", "")
    assert "s1 skipped: it has expired: the policy keeps the last 1" in reason


def test_another_node_deletes_what_a_lost_one_took() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.silent("a")
    world.later(GRACE_SECONDS)
    assert [command.node for command in deletions(world)] == ["b"]


def test_nobody_is_asked_while_no_node_is_there() -> None:
    world = running(keeping(last=1), "a")
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.silent("a")
    world.later(10_000)
    assert deletions(world) == []
    world.heard("a")
    world.later(1)
    assert len(deletions(world)) == 1


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.FAILED])
def test_a_deletion_that_came_to_nothing_is_asked_of_the_next_node_later(outcome: Outcome) -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.later(GRACE_SECONDS)
    (first,) = deletions(world)
    if outcome is Outcome.EXPIRED:
        world.later(world.policy.delete_seconds)
    else:
        about = {"key": first.key, "incarnation": first.incarnation, "command_id": first.command_id}
        failure = Failure("store-refused", "no", "again")
        world.report(CommandFinished(**about, outcome=outcome, failure=failure), node=first.node)
    world.later(1)
    assert len(deletions(world)) == 1
    world.later(60)
    assert [command.node for command in deletions(world)] == ["a", "b"]
    assert types(deleted(world, deletions(world)[1])) == ["snapshot.deleted", "command.finished"]


def test_only_whoever_was_told_to_delete_is_believed_to_have_done_so() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    world.later(GRACE_SECONDS)
    (command,) = deletions(world)
    assert "no open command" in (deleted(world, command, node="b").rejected or "")
    assert statuses(world)["s1"] == "expired"
    deleted(world, command)
    assert deleted(world, command).events == ()


class TestPins:
    def test_a_pinned_snapshot_is_chosen_before_newer_ones_until_it_is_unpinned(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        world.ended(1)
        wish(world, "pin", "s1")
        answer = world.ask("c2").answer
        assert (getattr(answer, "snapshot_id", None), getattr(answer, "reason", None)) == (
            "s1",
            "s1 of incarnation 1 is pinned",
        )
        wish(world, "unpin", "s1")
        world.started(2)
        world.ended(2)
        assert getattr(world.ask("c3").answer, "snapshot_id", None) == "s2"

    def test_one_that_cannot_be_restored_here_gives_way_to_the_law(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        world.ended(1)
        wish(world, "pin", "s1")
        world.ask("c2")
        world.restore_failed(2, "s1", BROKEN)
        answer = world.ask("c2").answer
        assert getattr(answer, "snapshot_id", None) == "s2"
        assert "pinned s1 skipped" in getattr(answer, "reason", "")

    def test_nobody_waits_for_a_dump_while_there_is_a_pin(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        wish(world, "pin", "s1")
        world.dump(1, "s2")
        assert getattr(world.ask("c2").answer, "snapshot_id", None) == "s1"

    def test_only_a_valid_one_can_be_pinned(self) -> None:
        world = running(Policy())
        world.dump(1, "s1")
        assert code(wish(world, "pin", "s1")) == "snapshot-not-valid"
        assert code(wish(world, "pin", "s9")) == "unknown-snapshot"

    def test_another_namespace_cannot_pin_it(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        assert code(wish(world, "pin", "s1", namespace="elsewhere")) == "unknown-snapshot"

    def test_a_wish_that_is_fulfilled_changes_nothing_more(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        wish(world, "pin", "s1")
        assert wish(world, "pin", "s1").events == ()
        wish(world, "unpin", "s1")
        assert wish(world, "unpin", "s1").events == ()


class TestDeletingOnRequest:
    def test_an_older_one_is_deleted_at_once_without_grace(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        (event,) = wish(world, "delete", "s1").events
        assert isinstance(event, SnapshotExpired)
        world.later(0)
        assert [command.snapshot_id for command in deletions(world)] == ["s1"]

    def test_the_latest_valid_one_only_by_force(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        world.ended(1)
        assert code(wish(world, "delete", "s1")) == "latest-snapshot"
        assert types(wish(world, "delete", "s1", force=True)) == ["snapshot.expired"]
        assert type(world.ask("c2").answer).__name__ == "StartCold"

    def test_never_a_pinned_one_nor_one_in_use_not_even_by_force(self) -> None:
        world = running(Policy())
        world.snapshot(1, "s1")
        world.ended(1)
        wish(world, "pin", "s1")
        assert code(wish(world, "delete", "s1", force=True)) == "snapshot-pinned"
        wish(world, "unpin", "s1")
        world.ask("c2")
        assert code(wish(world, "delete", "s1", force=True)) == "snapshot-in-use"
        world.silent("a")
        assert types(wish(world, "delete", "s1", force=True)) == ["snapshot.expired"], (
            "no restore on a lost node is waited for"
        )

    def test_not_what_is_not_stored(self) -> None:
        world = running(Policy())
        world.dump(1, "s1")
        assert code(wish(world, "delete", "s1")) == "snapshot-not-stored"
        world.dump_failed(1, "s1")
        assert code(wish(world, "delete", "s1")) == "snapshot-not-stored"

    def test_it_hastens_what_had_expired_anyway(self) -> None:
        world = running(keeping(last=1))
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        wish(world, "delete", "s1")
        world.later(0)
        assert len(deletions(world)) == 1


def test_an_invalidated_one_is_passed_over_with_the_reason() -> None:
    world = running(Policy())
    world.snapshot(1, "s1")
    world.ended(1)
    request = SnapshotRequest(KEY.cluster, KEY.namespace, SnapshotId("s1"), "invalidate", "holds a wrong result")
    world.give(SnapshotAsked(request, world.source()))
    assert "it was invalidated: holds a wrong result" in getattr(world.ask("c2").answer, "reason", "")


def test_a_start_that_was_overtaken_protects_its_snapshot_for_the_grace_only() -> None:
    world = running(keeping(last=1))
    world.snapshot(1, "s1")
    world.ended(1)
    world.ask("c2", "b")
    world.silent("b")
    world.ask("c3")
    world.started(3)
    world.snapshot(3, "s2")
    assert statuses(world)["s1"] == "valid"
    world.later(GRACE_SECONDS + 1)
    assert statuses(world)["s1"] == "expired"


def test_expiry_is_by_the_time_that_is_given_and_no_clock() -> None:
    world = running(Policy())
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    keep, retention = Keep(seconds=60.0), Retention()
    at = NOON + timedelta(seconds=59)
    assert expiries(world.key, retention, keep, at) == []
    assert [e.snapshot.snapshot_id for e in expiries(world.key, retention, keep, at + timedelta(seconds=1))] == ["s1"]
    assert world.key.snapshots["s1"].status is SnapshotStatus.VALID


def test_what_is_not_in_use_any_more_does_not_come_into_use_again_however_many_starts_follow() -> None:
    world = running(Policy())
    world.snapshot(1, "s1")
    world.ended(1)
    world.ask("c2")
    world.ask("c3", "b")
    assert in_use(world.key, world.now, 600.0) == {"s1"}
    world.ended(3)
    world.wish("invalidate", "s1")
    world.later(601.0)
    assert in_use(world.key, world.now, 600.0) == set()
    world.ask("c4", "b")
    assert in_use(world.key, world.now, 600.0) == set()
