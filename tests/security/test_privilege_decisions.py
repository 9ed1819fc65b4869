"""What the control plane decides about privileges, and what becomes of a worker's refusal."""

from __future__ import annotations

import msgspec
import pytest
from support.world import ANY_CONTAINER, KEY, World

from controlplane.domain import Policy, SnapshotStatus
from controlplane.domain.privilege_policy import PrivilegePolicy
from woodfrog.protocol.events import RestoreStage
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import PRIVILEGES_EXCEED, Failure
from woodfrog.protocol.privileges import Privileges
from woodfrog.protocol.requests import RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(10)

EMPTY = {"bounding": (), "permitted": (), "effective": (), "inheritable": (), "ambient": (), "no_new_privs": True}
ROOT = Privileges(user=0, uids=(0,), gids=(0,), seccomp="", masked=(), read_only=(), host_namespaces=(), **EMPTY)
NOBODY = msgspec.structs.replace(ROOT, user=65534, uids=(65534,), gids=(65534,))
FILTERED = msgspec.structs.replace(ROOT, seccomp="digest")
ADMIN = msgspec.structs.replace(ROOT, bounding=("CAP_SYS_ADMIN",), no_new_privs=False)


def container(privileges: Privileges | None) -> ContainerFacts:
    return msgspec.structs.replace(ANY_CONTAINER, privileges=privileges)


def world(held: Privileges | None, policy: Policy | None = None) -> World:
    """A container whose snapshot holds ``held``, and which has ended."""
    made = World("a", "b", policy=policy)
    made.run("c1", container=container(held))
    made.snapshot(1, "s1", final=True, taken_from=container(held))
    made.ended(1, stopped=True)
    return made


@pytest.mark.parametrize(
    ("allowed", "named"), [(NOBODY, "users 0"), (FILTERED, "seccomp filter")], ids=["user", "seccomp"]
)
def test_a_snapshot_that_holds_more_is_passed_over_for_a_cold_start_that_names_it(
    allowed: Privileges, named: str
) -> None:
    answer = world(ROOT).ask("c2", "b", container=container(allowed)).answer
    assert isinstance(answer, StartCold)
    assert named in answer.reason


def test_what_will_be_taken_is_said_with_the_choice_and_the_record_goes_along() -> None:
    answer = world(ADMIN).ask("c2", "b", container=container(ROOT)).answer
    assert isinstance(answer, RestoreFrom)
    assert "lowered to what the new container allows: it holds CAP_SYS_ADMIN (bounding)" in answer.reason
    assert (answer.bounded, answer.recorded) == (True, ADMIN)


@pytest.mark.parametrize(("held", "allowed"), [(None, NOBODY), (ROOT, None)], ids=["snapshot", "container"])
def test_of_an_old_snapshot_or_worker_the_images_decide(held: Privileges | None, allowed: Privileges | None) -> None:
    answer = world(held).ask("c2", "b", container=container(allowed)).answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.bounded, answer.recorded) == (True, held)


@pytest.mark.parametrize(
    "loose",
    [
        PrivilegePolicy(default=False),
        PrivilegePolicy(namespaces={KEY.namespace: False}),
        PrivilegePolicy(namespaces={KEY.namespace: True}, ids={(KEY.namespace, KEY.id): False}),
    ],
)
def test_only_the_policy_loosens_it_and_tells_the_worker(loose: PrivilegePolicy) -> None:
    answer = world(ROOT, Policy(privileges=loose)).ask("c2", "b", container=container(NOBODY)).answer
    assert isinstance(answer, RestoreFrom)
    assert not answer.bounded
    other = Policy(privileges=PrivilegePolicy(namespaces={"elsewhere": False}))
    assert isinstance(world(ROOT, other).ask("c2", "b", container=container(NOBODY)).answer, StartCold)


def test_a_workers_refusal_names_itself_and_counts_against_the_snapshot_nowhere() -> None:
    made = world(None)
    refused = Failure(PRIVILEGES_EXCEED, "its processes are of the users 0", "")
    for place, number in (("a", 2), ("b", 3)):
        assert isinstance(made.ask(f"c{number}", place, container=container(NOBODY)).answer, RestoreFrom)
        made.restore_failed(number, "s1", refused, RestoreStage.APPLY)
        answer = made.ask(f"c{number}", place, container=container(NOBODY)).answer
        assert isinstance(answer, StartCold)
        assert refused.cause in answer.reason
        made.ended(number, stopped=True)
    assert made.state.keys[KEY].snapshots["s1"].status is SnapshotStatus.VALID  # type: ignore[index]
    assert isinstance(made.ask("c4", "a", container=container(ROOT)).answer, RestoreFrom)


def test_a_dump_in_flight_of_a_root_container_is_waited_for_and_judged_when_it_is_there() -> None:
    """The first process may be root and its workers not, as with entry points that change the user."""
    made = World("a", "b")
    made.run("c1", container=container(ROOT))
    made.dump(1, "s1")
    answer = made.ask("c2", "b", container=container(NOBODY)).answer
    assert answer is not None
    assert answer.__struct_config__.tag == "wait"
    made.captured(1, "s1")
    made.stored(1, "s1", taken_from=container(msgspec.structs.replace(NOBODY, user=0)))
    assert isinstance(made.ask("c2", "b", container=container(NOBODY)).answer, RestoreFrom)
