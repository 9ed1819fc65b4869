"""Ids that nobody uses any more are let go, and no namespace holds more than it may; nobody loses work by it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.world import KEY, World

from controlplane.core.policies import InvalidPolicyError, read_policies
from controlplane.domain import Keep, Policy, Retention, SnapshotStatus, State, evolve
from controlplane.domain.evolve import Replay
from controlplane.domain.id_expiry import IdExpiry
from controlplane.domain.quotas import Quota, Quotas
from controlplane.domain.state import Usage, count_usage
from controlplane.kube.event_recorder import EventFormatter
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import (
    CheckpointForgotten,
    CommandIssued,
    ContainerEnded,
    IncarnationOpened,
    SnapshotDeleted,
    StartRefused,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.requests import CommandAccepted, Refusal, StartCold

pytestmark = pytest.mark.timeout(60)

DAY = 86400.0
MONTH = Policy(
    retention=Retention(default=Keep(last=1, seconds=60), grace_seconds=10),
    forgetting=IdExpiry(default_seconds=30 * DAY),
)


def key_of(checkpoint_id: str, namespace: str = "tenant") -> CheckpointKey:
    return CheckpointKey("lab", namespace, checkpoint_id)


def obey(world: World) -> None:
    """Delete what is to be deleted."""
    for command in list(world.state.commands.values()):
        if isinstance(command, DeleteCommand):
            about: dict[str, Any] = {"key": command.key, "incarnation": command.incarnation}
            about |= {"snapshot_id": command.snapshot_id, "command_id": command.command_id}
            world.report(SnapshotDeleted(**about, node=command.node), node=command.node)


def one_off(world: World) -> None:
    """A job that ran once and was stopped."""
    number = world.run(f"c{world.given}")
    world.snapshot(number, f"s{world.given}", final=True)
    world.ended(number)


def let_go(world: World) -> None:
    for _ in range(4):
        world.later(30)
        obey(world)
    world.later(1)


def replayed(world: World) -> State:
    replay = Replay(State())
    for event, at in world.log:
        replay.take(event, at)
    return replay.end()


def test_an_id_that_was_not_used_for_so_long_leaves_the_store_and_the_memory() -> None:
    """poc/keys_mem.py: ten years later, every id of every job was still there."""
    world = World("a", policy=MONTH)
    one_off(world)
    world.later(29 * DAY)
    let_go(world)
    assert [one.status for one in world.key.snapshots.values()] == [SnapshotStatus.VALID], "it was used 29 days ago"
    world.later(2 * DAY)
    let_go(world)
    assert world.state.keys == {}
    assert world.state.usage == {}
    assert world.state.commands == {}
    events = [event for event, _ in world.log]
    assert any(isinstance(event, SnapshotDeleted) for event in events), "its bytes first"
    assert isinstance(events[-1], CheckpointForgotten)
    assert replayed(world) == world.state


def test_a_later_start_begins_anew_with_a_number_that_no_start_of_the_id_had() -> None:
    world = World("a", policy=MONTH)
    for _ in range(3):
        one_off(world)
    world.later(31 * DAY)
    let_go(world)
    assert world.state.keys == {}
    answer = world.ask("again").answer
    assert isinstance(answer, StartCold)
    assert answer.incarnation == 4
    elsewhere = world.ask("other", key=key_of("other")).answer
    assert isinstance(elsewhere, StartCold)
    assert elsewhere.incarnation == 1, "another namespace knows nothing of it"
    assert replayed(world) == world.state


def test_what_runs_or_is_pinned_is_not_let_go_and_without_a_setting_nothing_is() -> None:
    running = World("a", policy=MONTH)
    running.snapshot(running.run("c1"), "s1")
    pinned = World("a", policy=MONTH)
    one_off(pinned)
    (name,) = pinned.key.snapshots
    pinned.wish("pin", name)
    unset = World("a", policy=Policy(retention=Retention(default=Keep(last=1, seconds=60))))
    one_off(unset)
    for world in (running, pinned, unset):
        world.later(3650 * DAY)
        let_go(world)
        assert [one.status for one in world.key.snapshots.values()] == [SnapshotStatus.VALID]
    pinned.wish("unpin", name)
    let_go(pinned)
    assert KEY in pinned.state.keys, "it was used when somebody unpinned it"
    pinned.later(31 * DAY)
    let_go(pinned)
    assert pinned.state.keys == {}


def test_a_container_on_a_node_that_is_lost_holds_nothing() -> None:
    world = World("a", "b", policy=MONTH)
    world.run("c1", "a")
    world.silent("a")
    world.later(31 * DAY)
    let_go(world)
    assert world.state.keys == {}


def test_what_a_worker_says_of_a_forgotten_id_makes_it_known_no_more() -> None:
    world = World("a", policy=MONTH)
    one_off(world)
    last = next(event for event, _ in world.log if isinstance(event, IncarnationOpened))
    world.later(31 * DAY)
    let_go(world)
    late = ContainerEnded(key=KEY, incarnation=last.incarnation, node=last.node, container_id=last.container_id)
    decision = world.report(late)
    assert decision.rejected is not None
    assert world.state.keys == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["run", "one-off", "wait", "months", "obey", "stop"]), st.integers(1, 3)), max_size=30
    )
)
def test_the_log_folded_from_its_start_is_the_live_state_and_no_number_is_given_twice(
    steps: list[tuple[str, int]],
) -> None:
    world = World("a", policy=MONTH)
    for step, count in steps:
        if step == "run":
            world.run(f"c{world.given}")
        elif step == "one-off":
            one_off(world)
        elif step == "stop" and KEY in world.state.keys:
            world.ended(world.key.newest)
        elif step == "obey":
            obey(world)
        else:
            world.later(count * (31 * DAY if step == "months" else 20))
    assert replayed(world) == world.state
    folded = State()
    for event, at in world.log:
        evolve(folded, event, at)
    assert folded == world.state
    usage: dict[str, Usage] = {}
    for name, key in world.state.keys.items():
        count_usage(usage, name, None, key)
    assert usage == world.state.usage
    opened = [event.incarnation for event, _ in world.log if isinstance(event, IncarnationOpened)]
    assert len(opened) == len(set(opened))


# Quotas


def quota(**of: int) -> Policy:
    return Policy(quotas=Quotas(namespaces={KEY.namespace: Quota(**of)}))


def test_a_new_id_beyond_the_quota_gets_no_protection_and_no_memory_and_its_pod_is_told() -> None:
    world = World("a", policy=quota(ids=2))
    for name in ("one", "two"):
        world.ask(f"c-{name}", key=key_of(name, KEY.namespace))
    pod = ContainerFacts(pod="three-0", pod_uid="u3")
    decision = world.ask("c-three", key=key_of("three", KEY.namespace), container=pod)
    assert isinstance(decision.answer, Refusal)
    assert decision.answer.failure.code == "quota"
    assert key_of("three", KEY.namespace) not in world.state.keys
    (event,) = decision.events
    assert isinstance(event, StartRefused)
    note = EventFormatter(world.state.keys.get).note(event, world.now)
    assert note is not None
    assert (note.pod, note.uid, note.reason, note.warning) == ("three-0", "u3", "Unprotected", True)
    assert "2 checkpoint ids, of 2" in note.note
    assert isinstance(world.ask("c-elsewhere", key=key_of("elsewhere")).answer, StartCold)
    assert isinstance(world.ask("c-one-again", key=key_of("one", KEY.namespace)).answer, StartCold), "it is known"


def test_a_namespace_that_is_full_refuses_dumps_before_they_freeze_and_never_the_last_one() -> None:
    world = World("a", policy=quota(bytes=1000))
    number = world.run("c1")
    world.snapshot(number, "s1")
    assert isinstance(world.checkpoint("command-1").answer, CommandAccepted)
    world.snapshot(number, "s2")
    refused = world.checkpoint("command-2")
    assert isinstance(refused.answer, Refusal)
    assert refused.answer.failure.code == "quota"
    assert refused.events == ()
    world.snapshot(number, "s3", final=True)
    assert world.key.snapshots[SnapshotId("s3")].status is SnapshotStatus.VALID
    assert world.state.usage[f"lab/{KEY.namespace}"] == Usage(1, 1500)
    assert world.policy.quotas.reached(world.state) == 1


def test_no_dump_is_taken_at_an_interval_while_the_namespace_is_full() -> None:
    often = ContainerFacts(interval_seconds=10.0)
    world = World("a", policy=quota(bytes=400))
    number = world.run("c1", container=often)
    world.snapshot(number, "s1")
    world.later(60)
    assert not [event for event, _ in world.log if isinstance(event, CommandIssued)]
    world.policy = quota(bytes=600)
    world.later(60)
    assert [event for event, _ in world.log if isinstance(event, CommandIssued)]


def test_the_policy_file_says_both(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        '[default]\nforget_after = "30d"\nmax_ids = 10\n'
        '[namespaces.a]\nforget_after = "1d"\nmax_bytes = "1KiB"\n[ids."a/b"]\nforget_after = "2d"\n'
    )
    policies = read_policies(str(path))
    of = policies.forgetting.of
    assert [of(key_of("x")), of(key_of("x", "a")), of(key_of("b", "a"))] == [30 * DAY, DAY, 2 * DAY]
    assert policies.quotas.of(key_of("x")) == Quota(ids=10)
    assert policies.quotas.of(key_of("x", "a")) == Quota(bytes=1024, ids=10)
    path.write_text('[ids."a/b"]\nmax_ids = 1\n')
    with pytest.raises(InvalidPolicyError, match=r"bounds a namespace, not one id.*ids\."):
        read_policies(str(path))


def test_memory_of_one_off_jobs_does_not_grow() -> None:
    world = World("a", policy=MONTH)
    for _ in range(5):
        for _ in range(20):
            key = key_of(f"cronjob-{world.given}")
            world.ask(f"c{world.given}", key=key)
        assert len(world.state.keys) == 20
        world.now += timedelta(days=31)
        world.silent("a")
        let_go(world)
        assert world.state.keys == {}
        world.heard("a")
    assert len(world.state.floors) == 1
