"""What of a snapshot is more than the new container allows: the same spec never is, and what is lowered fits."""

from __future__ import annotations

import msgspec
import pytest

from woodfrog.protocol.privileges import Privileges, ceiling, excess, gains, lower

DOCKER = ("CAP_CHOWN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID")


def spec(user: int = 0, **fields: object) -> Privileges:
    standard: dict[str, object] = {
        "user": user,
        "uids": (user,),
        "gids": (user,),
        "bounding": DOCKER,
        "permitted": DOCKER,
        "effective": DOCKER,
        "inheritable": (),
        "ambient": (),
        "no_new_privs": False,
        "seccomp": "",
        "lsm": (),
        "read_only": (),
        "masked": (),
        "host_namespaces": (),
        "rlimits": (),
        "oom_score_adj": 0,
    }
    return msgspec.convert(standard | fields, Privileges)


def fields_of(held: Privileges, allowed: Privileges) -> dict[str, bool]:
    return {each.field: each.lowers for each in excess(held, allowed)}


@pytest.mark.parametrize(
    "held",
    [
        pytest.param({}, id="as it was started"),
        pytest.param({"uids": (0, 33), "gids": (0, 33), "groups": (4,)}, id="workers that became another user"),
        pytest.param({"permitted": (), "effective": ()}, id="everything dropped"),
    ],
)
def test_the_same_spec_fits(held: dict[str, object]) -> None:
    assert excess(spec(**held), spec()) == []


def test_a_set_user_id_program_of_the_same_image_fits_where_the_same_user_may_gain_by_it() -> None:
    held = spec(1000, uids=(0, 1000), gids=(0, 1000), permitted=DOCKER, effective=DOCKER)
    assert gains(held, spec(1000))
    assert excess(held, spec(1000)) == []
    assert fields_of(held, spec(1000, no_new_privs=True)) == {
        "uids": False,
        "gids": False,
        "permitted": True,
        "effective": True,
        "no_new_privs": True,
    }
    unrecorded = msgspec.structs.replace(held, user=None)
    assert fields_of(unrecorded, spec(1000)) == {"uids": False, "gids": False, "permitted": True, "effective": True}


@pytest.mark.parametrize(
    ("held", "allowed", "field", "lowers"),
    [
        ({}, {"user": 1000, "uids": (1000,), "gids": (0,)}, "uids", False),
        ({"gids": (0, 5)}, {"bounding": ("CAP_CHOWN",), "permitted": (), "no_new_privs": True}, "gids", False),
        ({"groups": (5,)}, {"bounding": ("CAP_CHOWN",), "permitted": (), "no_new_privs": True}, "groups", False),
        ({}, {"bounding": ("CAP_CHOWN",)}, "bounding", True),
        ({}, {"permitted": ("CAP_SETUID", "CAP_SETGID"), "no_new_privs": True}, "permitted", True),
        ({"inheritable": ("CAP_SYS_ADMIN",)}, {}, "inheritable", True),
        ({"ambient": ("CAP_SYS_ADMIN",)}, {}, "ambient", True),
        ({}, {"no_new_privs": True}, "no_new_privs", True),
        ({}, {"seccomp": "digest"}, "seccomp", False),
        ({}, {"lsm": ("docker-default",)}, "lsm", True),
        ({}, {"read_only": ("/vol",)}, "read_only", True),
        ({}, {"read_only": ("/proc/sys",)}, "read_only", False),
        ({}, {"masked": ("/proc/kcore",)}, "masked", False),
        ({"host_namespaces": ("pid",)}, {}, "host_namespaces", False),
        ({"rlimits": (("RLIMIT_NOFILE", 4096),)}, {"rlimits": (("RLIMIT_NOFILE", 1024),)}, "rlimits", True),
        ({"oom_score_adj": -500}, {"oom_score_adj": 100}, "oom_score_adj", True),
    ],
)
def test_each_field_that_is_narrower_is_named(
    held: dict[str, object], allowed: dict[str, object], field: str, *, lowers: bool
) -> None:
    old, new = spec(**held), spec(**allowed)
    assert fields_of(old, new).get(field) is lowers
    assert field not in fields_of(new, old)
    left = excess(lower(old, ceiling(new, gains=gains(old, new))), new)
    assert [each.field for each in left if each.lowers] == []


def test_unknown_is_never_too_much() -> None:
    assert excess(Privileges(), spec(1000, seccomp="digest", masked=("/proc/kcore",))) == []
    assert excess(spec(), Privileges()) == []


def test_a_capability_leaves_with_the_ambient_set_that_it_came_from() -> None:
    ambient = ("CAP_NET_RAW",)
    held = spec(1000, given=ambient, permitted=ambient, effective=ambient, inheritable=ambient, ambient=ambient)
    assert not gains(held, spec(1000))
    lowered = lower(held, ceiling(spec(1000)))
    assert (lowered.permitted, lowered.effective, lowered.ambient) == ((), (), ())


def test_a_child_profile_is_confined_by_its_parent_and_a_mask_makes_read_only() -> None:
    held = spec(lsm=("web", "web//worker"), masked=("/proc/sys",))
    assert (
        excess(held, spec(lsm=("web",), read_only=("/proc/sys", "/proc/sys/kernel"), masked=("/proc/sys/net",))) == []
    )
