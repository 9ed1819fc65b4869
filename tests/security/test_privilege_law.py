"""Whatever two containers allow: what is restored is within the new one, and the same spec always goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import Asker, Incarnation, KeyState, Restore, Snapshot, SnapshotStatus, choose
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import IncarnationNumber, NodeName, SnapshotId
from woodfrog.protocol.privileges import CAPABILITY_SETS, Privileges, ceiling, excess, gains, lower

pytestmark = [pytest.mark.timeout(120)]

ALL = ("CAP_CHOWN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")
PLACES = ("/", "/proc/sys", "/sys", "/sys/firmware", "/vol")
USERS = (0, 33, 1000)

capabilities = st.sets(st.sampled_from(ALL)).map(lambda names: tuple(sorted(names)))
numbers = st.sets(st.sampled_from(USERS)).map(lambda found: tuple(sorted(found)))
places = st.sets(st.sampled_from(PLACES)).map(lambda found: tuple(sorted(found)))


@st.composite
def specs(draw: st.DrawFn) -> Privileges:
    user, group = draw(st.sampled_from(USERS)), draw(st.sampled_from(USERS))
    bounding = draw(capabilities)
    some = st.sets(st.sampled_from(bounding or ALL)).map(lambda names: tuple(sorted(names & set(bounding))))
    permitted = draw(some)
    inheritable = draw(some)
    ambient = tuple(sorted(set(permitted) & set(inheritable) & set(draw(some))))
    return Privileges(
        user=user,
        given=ambient if user else (),
        uids=(user,),
        gids=(group,),
        groups=draw(numbers),
        bounding=bounding,
        permitted=permitted,
        effective=permitted,
        inheritable=inheritable,
        ambient=ambient,
        no_new_privs=draw(st.booleans()),
        seccomp=draw(st.sampled_from(["", "one", "two"])),
        lsm=draw(st.sampled_from([(), ("web",), ("other",)])),
        read_only=draw(places),
        masked=draw(places.map(lambda found: tuple(each for each in found if each.startswith(("/proc/", "/sys/"))))),
        host_namespaces=draw(st.sampled_from([(), ("pid",), ("ipc", "pid")])),
        rlimits=draw(st.sampled_from([(), (("RLIMIT_NOFILE", 512),), (("RLIMIT_NOFILE", 4096),)])),
        oom_score_adj=draw(st.sampled_from([None, -500, 0, 700])),
    )


@st.composite
def anything(draw: st.DrawFn) -> Privileges:
    """What processes of a snapshot hold, of whatever container, also of a lying record."""
    sets = {field: draw(st.none() | capabilities) for field in CAPABILITY_SETS}
    changes = {"uids": draw(numbers), "gids": draw(numbers), "groups": draw(numbers), **sets}
    changes["given"] = draw(capabilities)
    changes |= {"user": draw(st.none() | st.sampled_from(USERS)), "no_new_privs": draw(st.none() | st.booleans())}
    return msgspec.structs.replace(draw(specs()), **changes)


@settings(max_examples=500, deadline=None)
@given(anything(), specs())
def test_what_is_chosen_is_within_the_new_container_once_it_is_lowered(held: Privileges, allowed: Privileges) -> None:
    node, facts = NodeName("a"), NodeFacts()
    taken = ContainerFacts(mounts=PLACES, privileges=held)
    snapshot = Snapshot(
        SnapshotId("s"), IncarnationNumber(1), node, SnapshotStatus.VALID, manifest_digest="d", taken_from=taken
    )
    key = KeyState(
        {IncarnationNumber(1): Incarnation(IncarnationNumber(1), ended=True)}, {snapshot.snapshot_id: snapshot}
    )
    asker = Asker(node, facts, ContainerFacts(mounts=PLACES, privileges=allowed), IncarnationNumber(2))
    choice = choose(key, {}, asker, datetime.now(UTC))
    found = excess(held, allowed)
    assert isinstance(choice, Restore) is all(each.lowers for each in found)
    if isinstance(choice, Restore):
        assert all(each.what in choice.reason for each in found)
        assert excess(lower(held, ceiling(allowed, gains=gains(held, allowed))), allowed) == []


@settings(max_examples=300, deadline=None)
@given(anything(), specs())
def test_what_is_lowered_is_never_more_than_it_was(held: Privileges, allowed: Privileges) -> None:
    lowered = lower(held, ceiling(allowed, gains=gains(held, allowed)))
    for field in CAPABILITY_SETS:
        assert set(getattr(lowered, field) or ()) <= set(getattr(held, field) or ())
    assert lower(lowered, ceiling(allowed, gains=gains(held, allowed))) == lowered


class Process:
    """A process as the kernel keeps it (capabilities(7), credentials(7)), in a container that ``spec`` describes."""

    def __init__(self, spec: Privileges) -> None:
        self.uids, self.gids, self.groups = {spec.user}, {*spec.gids}, {*spec.groups}
        self.real = self.effective_user = spec.user
        self.sets = {field: set(getattr(spec, field) or ()) for field in CAPABILITY_SETS}
        self.no_new_privs = bool(spec.no_new_privs)
        self.execute()

    def execute(
        self, owner: int | None = None, group: int | None = None, of_file: frozenset[str] = frozenset()
    ) -> None:
        """Become another program, which may have a set-user-ID or set-group-ID bit, or file capabilities."""
        before = set(self.sets["permitted"])
        gaining = not self.no_new_privs
        if gaining and owner is not None:
            self.effective_user = owner
            self.uids.add(owner)
        if gaining and group is not None:
            self.gids.add(group)
        special = gaining and (owner is not None or group is not None or bool(of_file))
        if special:
            self.sets["ambient"] = set()
        root = 0 in {self.real, self.effective_user}
        of_file = frozenset(ALL) if root else of_file if gaining else frozenset()
        inherited = self.sets["inheritable"] if root else set()
        permitted = inherited | (of_file & self.sets["bounding"]) | self.sets["ambient"]
        self.sets["permitted"] = permitted if gaining else permitted & before
        self.sets["effective"] = set(self.sets["permitted"])

    def change_user(self, user: int, *, keep: bool) -> None:
        """Call setuid(2), with or without PR_SET_KEEPCAPS."""
        if "CAP_SETUID" in self.sets["effective"]:
            was_root = 0 in self.uids
            self.uids, self.real, self.effective_user = {user}, user, user
            if was_root and user:
                self.sets["ambient"] = set()
                self.sets["effective"] = set()
                if not keep:
                    self.sets["permitted"] = set()

    def change_groups(self, groups: set[int]) -> None:
        """Call setgid(2) and setgroups(2)."""
        if "CAP_SETGID" in self.sets["effective"]:
            self.gids, self.groups = set(groups) or self.gids, set(groups)

    def drop(self, field: str, names: set[str]) -> None:
        """Give capabilities up."""
        self.sets[field] -= names
        self.sets["effective"] &= self.sets["permitted"]
        self.sets["ambient"] &= self.sets["permitted"] & self.sets["inheritable"]

    def add(self, names: set[str]) -> None:
        """Add to the inheritable and the ambient set what may be."""
        self.sets["inheritable"] |= names & self.sets["permitted"]
        self.sets["ambient"] |= names & self.sets["permitted"] & self.sets["inheritable"]

    def held(self, spec: Privileges) -> Privileges:
        """As a worker records it."""
        sets = {field: tuple(sorted(names)) for field, names in self.sets.items()}
        people = {"uids": self.uids, "gids": self.gids, "groups": self.groups}
        found = {name: tuple(sorted(numbers)) for name, numbers in people.items()}
        return msgspec.structs.replace(spec, **sets, **found, no_new_privs=self.no_new_privs)


names = st.sets(st.sampled_from(ALL))
steps = st.one_of(
    st.builds(lambda: lambda p: p.execute()),
    st.builds(lambda owner: lambda p: p.execute(owner=owner), st.sampled_from(USERS)),
    st.builds(lambda group: lambda p: p.execute(group=group), st.sampled_from(USERS)),
    st.builds(lambda some: lambda p: p.execute(of_file=frozenset(some)), names),
    st.builds(lambda user, keep: lambda p: p.change_user(user, keep=keep), st.sampled_from(USERS), st.booleans()),
    st.builds(lambda groups: lambda p: p.change_groups(groups), st.sets(st.sampled_from(USERS))),
    st.builds(lambda field, some: lambda p: p.drop(field, some), st.sampled_from(CAPABILITY_SETS), names),
    st.builds(lambda some: lambda p: p.add(some), names),
    st.builds(lambda: lambda p: setattr(p, "no_new_privs", True)),
)


@settings(max_examples=1000, deadline=None)
@given(specs(), st.lists(steps, max_size=8))
def test_under_the_same_spec_whatever_a_process_has_become_goes_on_as_it_is(
    spec: Privileges, history: list[object]
) -> None:
    process = Process(spec)
    for step in history:
        step(process)  # type: ignore[operator]
    assert excess(process.held(spec), spec) == []
