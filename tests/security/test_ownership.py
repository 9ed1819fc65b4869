"""Within a namespace, a pod gets no memory of one that ran as another; and what is old in a restored process is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.world import ANY_NODE, KEY, World

from controlplane.core.policies import InvalidPolicyError, read_policies
from controlplane.domain import Policy, ResolveAsked
from controlplane.domain.ownership import OwnershipPolicy, stranger
from controlplane.domain.placement import PlacedPod, Placement
from nodeworker.domain import changed_environment
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, NodeName, WorkerId
from woodfrog.protocol.manifest import EnvironmentMarks
from woodfrog.protocol.requests import ResolveRequest, RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(20)

A = NodeName("a")
VICTIM = PlacedPod("default", "db-0", "u1", A, ids=("trainer",), service_account="db", owner_kind="StatefulSet")
SALT = b"\x01" * 16


def ask(world: World, container_id: str, pod: PlacedPod) -> RestoreFrom | StartCold:
    facts = ContainerFacts(image="db:1", pod=pod.name, pod_uid=pod.uid)
    request = ResolveRequest(KEY, ContainerId(container_id), A, WorkerId("worker-a"), ANY_NODE, facts, 0)
    answer = world.give(ResolveAsked(request, world.source(), Placement(pod))).answer
    assert isinstance(answer, RestoreFrom | StartCold), answer
    return answer


def with_a_snapshot(policy: Policy | None = None) -> World:
    world = World("a", policy=policy)
    world.started(ask(world, "c1", VICTIM).incarnation)
    world.snapshot(1, "s1", taken_from=ContainerFacts(image="db:1"), final=True)
    world.ended(1)
    return world


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"service_account": "tools"}, "a pod of ServiceAccount db, the new one runs as tools"),
        ({"owner_kind": ""}, "a pod of a StatefulSet, the new one is of nobody"),
        ({"owner_kind": "Job"}, "a pod of a StatefulSet, the new one is of a Job"),
    ],
)
def test_a_pod_of_somebody_else_starts_cold_and_is_told_why(change: dict[str, str], reason: str) -> None:
    answer = ask(with_a_snapshot(), "c2", replace(VICTIM, name="evil", uid="u2", **change))
    assert isinstance(answer, StartCold)
    assert reason in answer.reason


def test_its_own_replacement_goes_on() -> None:
    assert isinstance(ask(with_a_snapshot(), "c2", replace(VICTIM, uid="u2")), RestoreFrom)


@pytest.mark.parametrize("where", ["default", "namespaces", "ids"])
def test_a_policy_loosens_it_and_nothing_else_does(tmp_path: Path, where: str) -> None:
    table = {"default": "[default]", "namespaces": "[namespaces.default]", "ids": '[ids."default/trainer"]'}[where]
    file = tmp_path / "policy.toml"
    file.write_text(f'{table}\nowner = "any"\n')
    ownership = read_policies(str(file)).ownership
    world = with_a_snapshot(Policy(ownership=ownership))
    evil = replace(VICTIM, name="evil", uid="u2", service_account="tools")
    assert isinstance(ask(world, "c2", evil), RestoreFrom)
    elsewhere = CheckpointKey("lab", "other", "trainer")
    assert ownership.same(elsewhere) == (where != "default")
    file.write_text(f'{table}\nowner = "nobody"\n')
    with pytest.raises(InvalidPolicyError, match="owner"):
        read_policies(str(file))


def test_the_most_specific_rule_holds() -> None:
    policy = OwnershipPolicy(default=False, namespaces={"default": True}, ids={("default", "trainer"): False})
    assert not policy.same(KEY)
    assert policy.same(CheckpointKey("lab", "default", "other"))
    assert not policy.same(CheckpointKey("lab", "web", "other"))


@given(*[st.sampled_from([None, "", "x", "y"])] * 4)
def test_what_is_unknown_speaks_against_nothing(
    was: str | None, now: str | None, owner_was: str | None, owner_now: str | None
) -> None:
    before = ContainerFacts(service_account=was, owner_kind=owner_was)
    after = ContainerFacts(service_account=now, owner_kind=owner_now)
    differs = any(None not in pair and pair[0] != pair[1] for pair in ((was, now), (owner_was, owner_now)))
    assert (stranger(before, after) is not None) == differs


ENV = {
    "DB_PASSWORD": "old",
    "MODE": "fast",
    "HOSTNAME": "db-0",
    "POD": "db-0-xk2",
    "URL": "http://db-0-xk2:80",
    "KUBERNETES_PORT": "tcp://10.0.0.1:443",
    "WEB_SERVICE_HOST": "10.0.0.7",
    "WEB_PORT_80_TCP_ADDR": "10.0.0.7",
}


def test_a_rotated_secret_in_a_variable_is_named_and_its_value_is_nowhere() -> None:
    marks = changed_environment.marks(ENV, ["db-0-xk2", None], SALT)
    assert set(marks.digests) == {"DB_PASSWORD", "MODE"}
    assert "old" not in str(marks)
    assert changed_environment.changed(marks, ENV, ["db-0-xk2"]) == []
    names = changed_environment.changed(
        marks, ENV | {"DB_PASSWORD": "new", "MORE": "x", "WEB_SERVICE_HOST": "9"}, ["db-0-zz9"]
    )
    assert names == ["DB_PASSWORD"]
    assert changed_environment.warning(names) == (
        "DB_PASSWORD changed since the snapshot; the process has the old value",
    )
    assert changed_environment.warning([]) == ()
    many = changed_environment.warning([f"V{number}" for number in range(9)])
    assert many == (
        "V0, V1, V2, V3, V4 and 4 more variables changed since the snapshot; the process has the old values",
    )


def test_equal_values_look_different_in_two_snapshots() -> None:
    one, other = (changed_environment.marks(ENV, [], bytes([number]) * 16) for number in (1, 2))
    assert one.digests["MODE"] != other.digests["MODE"]
    assert one.digests["MODE"] != changed_environment.marks({"MODE2": "fast"}, [], SALT).digests["MODE2"]


@pytest.mark.parametrize("salt", ["", "zz", "00" * 100_000])
def test_marks_that_somebody_else_wrote_harm_nothing(salt: str) -> None:
    hostile = EnvironmentMarks(salt, {"MODE": "\x1b[2J", "\x1b]0;owned": "x"})
    for said in changed_environment.warning(changed_environment.changed(hostile, ENV | {"\x1b[1m": "x"}, [])):
        assert said.isprintable()
