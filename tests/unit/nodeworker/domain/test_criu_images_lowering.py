"""Privileges are taken out of CRIU's images, and nothing else is touched."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.criu_images import CONFINED, PLAIN, SPECIMENS, edit, load, messages, put, within

from nodeworker.domain.capabilities import NAMES, kept, names_of
from nodeworker.domain.criu_images import CannotLowerError, left_writable, lower, mounted_places, read_privileges
from nodeworker.domain.criu_images.protobuf import Message, number_field
from woodfrog.protocol.privileges import CAPABILITY_SETS, Privileges, ceiling, excess

pytestmark = pytest.mark.timeout(30)

SOME = ("CAP_CHOWN", "CAP_NET_RAW")
MOUNTS = "mountpoints-13.img"


def spec(**fields: object) -> Privileges:
    """What a container of root with some capabilities allows."""
    plain = Privileges(
        user=0,
        uids=(0,),
        gids=(0,),
        groups=(5, 70000),
        bounding=SOME,
        permitted=SOME,
        effective=SOME,
        inheritable=(),
        ambient=(),
        no_new_privs=True,
    )
    return msgspec.structs.replace(plain, **fields)


def lowered(images: dict[str, bytes], allowed: Privileges) -> dict[str, bytes]:
    return images | lower(images, ceiling(allowed))


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_after_lowering_nothing_is_too_much(specimen: str) -> None:
    images = load(specimen)
    allowed = spec(rlimits=(("RLIMIT_NOFILE", 512),), oom_score_adj=500, read_only=("/rovol", "/sys"))
    assert excess(read_privileges(images), allowed)
    after = lowered(images, allowed)
    assert not excess(read_privileges(after), allowed)
    assert lower(after, ceiling(allowed)) == {}


def test_the_images_of_every_thread_are_changed_and_no_others() -> None:
    changed = lower(load(PLAIN), ceiling(spec()))
    assert sorted(changed) == ["core-1.img", "core-6.img", "core-7.img"]
    assert lower(load(PLAIN), Privileges()) == {}


def test_only_what_is_lowered_differs() -> None:
    images = load(PLAIN)
    after = lowered(images, spec(bounding=(), permitted=(), effective=(), no_new_privs=True, user=1))
    for name in ("core-1.img", "core-6.img", "core-7.img"):
        edit(after, name, (5, 10), **{f"f{number}": None for number in (9, 10, 11, 12, 18, 19)})
        edit(images, name, (5, 10), **{f"f{number}": None for number in (9, 10, 11, 12, 18, 19)})
    assert after == images


def test_what_is_not_known_stays_where_it_was() -> None:
    images = load(PLAIN)
    edit(images, "core-1.img", (5, 10), f500=b"of a later CRIU")
    edit(images, "core-1.img", (), f501=7)
    after = lowered(images, spec())
    core = Message(messages(after, "core-1.img")[0], "core")
    assert core.uint32(501) == 7
    assert core.message(5, "thread").message(10, "credentials").data(500) == b"of a later CRIU"
    assert core.raw.endswith(number_field(501, 7))


def test_a_soft_limit_is_cut_with_the_hard_one_and_a_lower_one_stays() -> None:
    for most, soft in ((2048, 1024), (512, 512)):
        after = lowered(load(PLAIN), spec(rlimits=(("RLIMIT_NOFILE", most), ("RLIMIT_CPU", 60))))
        core = Message(messages(after, "core-1.img")[0], "core")
        limits = core.message(3, "process").message(8, "limits").messages(1, "limit")
        assert [limits[7].uint64(number) for number in (1, 2)] == [soft, most]
        assert [limits[0].uint64(number) for number in (1, 2)] == [60, 60]
        assert [limits[6].uint64(number) for number in (1, 2)] == [96365, 96365]


def test_oom_score_adj_is_raised_also_above_a_negative_one() -> None:
    images = load(PLAIN)
    edit(images, "core-1.img", (3,), f14=-500)
    assert read_privileges(lowered(images, spec(oom_score_adj=-300))).oom_score_adj == -300
    assert read_privileges(lowered(images, spec(oom_score_adj=-600))).oom_score_adj == -500


def test_an_ambient_capability_is_lost_in_all_sets_that_it_feeds() -> None:
    after = lowered(load(CONFINED), spec(bounding=("CAP_NET_RAW",), permitted=(), effective=(), user=1))
    held = read_privileges(after)
    assert (held.permitted, held.effective, held.ambient) == ((), (), ())
    assert held.bounding == ("CAP_NET_RAW",)


def test_mounts_become_read_only_where_nobody_writes() -> None:
    images = load(PLAIN)
    changed = lower(images, Privileges(read_only=("/dev", "/dev/shm", "/proc/keys", "/rovol")))
    assert list(changed) == [MOUNTS]
    before, after = read_privileges(images), read_privileges(images | changed)
    assert before.read_only is not None
    assert after.read_only is not None
    assert set(after.read_only) - set(before.read_only) == {"/dev", "/dev/shm"}
    differing = [
        (a, b) for a, b in zip(messages(images, MOUNTS), messages(images | changed, MOUNTS), strict=True) if a != b
    ]
    assert len(differing) == 2
    for old, new in differing:
        assert Message(old, "mount").rewritten({5: b""}) == Message(new, "mount").rewritten({5: b""})
        assert Message(new, "mount").uint32(5) == Message(old, "mount").uint32(5) | 1


@pytest.mark.parametrize("path", ["/vol/open", "/vol/map", "/vol/socket"])
def test_a_mount_to_which_a_process_writes_is_not_made_read_only(path: str) -> None:
    with pytest.raises(CannotLowerError, match="process 1 holds") as problem:
        lower(load(PLAIN), Privileges(read_only=("/vol",)))
    assert repr(path) in str(problem.value)


def test_a_file_that_is_open_for_reading_hinders_nothing() -> None:
    images = load(PLAIN)
    files = [raw for raw in messages(images, "files.img") if b"/vol/map" not in raw and b"/vol/socket" not in raw]
    read = {
        raw: within(raw, (3,), lambda file: Message(file, "file").rewritten({2: number_field(2, 0)})) for raw in files
    }
    put(images, "files.img", [read[raw] if b"/vol/open" in raw else raw for raw in files])
    assert "/vol" in (read_privileges(images | lower(images, Privileges(read_only=("/vol",)))).read_only or ())


def test_a_place_that_is_no_mount_there_cannot_be_made_read_only() -> None:
    with pytest.raises(CannotLowerError, match="/opt, to be read-only, is not a mount"):
        lower(load(PLAIN), Privileges(read_only=("/opt", "/rovol")))


def test_a_criu_before_4_2_leaves_the_root_writable() -> None:
    assert left_writable(("/", "/vol"), (4, 1, 1)) == ("/",)
    assert left_writable(("/", "/vol"), (4, 2, 0)) == ()


def test_every_place_with_a_mount_is_named() -> None:
    assert mounted_places(load(PLAIN)) == (
        "/",
        "/dev",
        "/dev/shm",
        "/proc",
        "/proc/bus",
        "/proc/keys",
        "/proc/sys",
        "/proc/sysvipc",
        "/rovol",
        "/sys",
        "/vol",
    )


sets = st.sets(st.sampled_from(NAMES)).map(lambda names: tuple(sorted(names)))


@settings(deadline=None)
@given(
    allowed=st.builds(
        Privileges,
        user=st.sampled_from([0, 1]),
        uids=st.just((0, 1)),
        gids=st.just((0,)),
        groups=st.just((5, 70000)),
        no_new_privs=st.booleans(),
        oom_score_adj=st.integers(-1000, 1000),
        rlimits=st.lists(
            st.tuples(st.sampled_from(["RLIMIT_NOFILE", "RLIMIT_CPU"]), st.integers(0, 2**64 - 1)), max_size=2
        ).map(tuple),
        **dict.fromkeys(CAPABILITY_SETS, sets),
    ),
    specimen=st.sampled_from(SPECIMENS),
)
def test_whatever_is_allowed_the_lowered_fit_and_hold_nothing_new(allowed: Privileges, specimen: str) -> None:
    images = load(specimen)
    before, after = read_privileges(images), read_privileges(lowered(images, allowed))
    assert not [one for one in excess(after, allowed) if one.lowers]
    for kind in CAPABILITY_SETS:
        assert set(getattr(after, kind)) <= set(getattr(before, kind))
    assert set(after.ambient or ()) <= set(after.permitted or ())
    assert set(after.effective or ()) <= set(after.permitted or ())


@given(st.integers(0, 2**64 - 1))
def test_names_and_bits_of_capabilities_say_the_same(bits: int) -> None:
    assert kept(bits, names_of(bits)) == bits
    assert kept(bits, ()) == 0
    assert len(names_of(bits)) == bits.bit_count()
