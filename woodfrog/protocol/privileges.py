"""Privileges: what a container allows its processes, what the processes of a snapshot hold, and what of it is too much.

CRIU restores credentials, filters and mounts as they were dumped, whatever the new container's config.json says. So the new
container's spec is the upper bound: what the processes of a snapshot hold beyond it is *lowered* before they run where that can
be done exactly, and where it cannot the snapshot is not restored. The same spec always fits: the bound is not what a container
starts with but what its processes may come to hold, by setuid(2), by execve(2) of set-user-ID programs and of programs with file
capabilities (capabilities(7)), unless ``no_new_privs`` forbids it.

Both sides are the same value. ``None`` means unknown, which is never too much: what a log does not know, the worker that restores
reads from CRIU's images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import msgspec

CAPABILITY_SETS: Final = ("bounding", "permitted", "effective", "inheritable", "ambient")
NO_FILTER: Final = ""
"""As :attr:`Privileges.seccomp`: at least one task runs without a filter, or the container has no profile."""
SOME_FILTER: Final = "filter"
"""As :attr:`Privileges.seccomp`: every task has a filter, and of which profile is not known."""
_SHOWN: Final = 8


class Privileges(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a container allows (of a spec), or what its processes hold (of a snapshot). ``None`` is unknown.

    Users and groups are those inside of the container's user namespace; capabilities are named as in ``CAP_SYS_ADMIN``, and all
    collections are sorted.
    """

    user: int | None = None
    """As which user the container's first process is started: of a snapshot known only where its spec was recorded."""
    given: tuple[str, ...] = ()
    """The capabilities that the spec gives another user than root to begin with: its ambient set. Known where :attr:`user` is."""
    uids: tuple[int, ...] = ()
    """Every real, effective, saved and file-system user id; of a spec the one of :attr:`user`."""
    gids: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    """Supplementary groups."""
    bounding: tuple[str, ...] | None = None
    permitted: tuple[str, ...] | None = None
    effective: tuple[str, ...] | None = None
    inheritable: tuple[str, ...] | None = None
    ambient: tuple[str, ...] | None = None
    no_new_privs: bool | None = None
    """Of processes whether all of them have it."""
    seccomp: str | None = None
    """:data:`NO_FILTER`, the digest of the profile (``linux.seccomp`` of config.json), or :data:`SOME_FILTER`."""
    lsm: tuple[str, ...] | None = None
    """AppArmor profiles and SELinux labels, each once; empty where nothing confines."""
    read_only: tuple[str, ...] | None = None
    """Places that are mounted read-only: mounts, read-only paths, and ``/`` if the root file system is."""
    masked: tuple[str, ...] | None = None
    """Paths of the kernel's file systems that are covered by something empty."""
    host_namespaces: tuple[str, ...] | None = None
    """Kinds of namespaces (as config.json calls them) that are the node's own."""
    rlimits: tuple[tuple[str, int], ...] | None = None
    """Hard limits, such as ``("RLIMIT_NOFILE", 1024)``; those not named are unknown. 2**64 - 1 is no limit."""
    oom_score_adj: int | None = None
    """Of processes the lowest."""


class Excess(msgspec.Struct, frozen=True, gc=False):
    """One thing that a snapshot's processes hold and the new container does not allow."""

    field: str
    """The field of :class:`Privileges`."""
    what: str
    """A clause about the snapshot: ``it holds CAP_SYS_ADMIN, …``."""
    lowers: bool
    """Whether it can be taken from them exactly, before they run."""


def gains(held: Privileges, allowed: Privileges) -> bool:
    """Say whether the processes may have gained by set-user-ID programs or file capabilities what the new container grants the same way.

    The programs are those of the image, which is the same. It takes a record of the spec that the snapshot's container had: it
    was started as the same user, with no more than the new one's.
    """
    return allowed.no_new_privs is False and begun_alike(held, allowed)


def begun_alike(held: Privileges, allowed: Privileges) -> bool:
    """Say whether the snapshot's container is known to have been started as the same user, with no more than the new one's."""
    return held.user is not None and held.user == allowed.user and set(held.given) <= set(allowed.given)


def ceiling(allowed: Privileges, *, gains: bool = False) -> Privileges:
    """Say what processes may hold at most in a container that ``allowed`` describes; they are lowered to this.

    Capabilities follow capabilities(7): at execve(2) root gets its bounding and inheritable sets, with ``no_new_privs`` nothing that
    was not permitted before; anybody else keeps the ambient set. ``effective`` is bounded by ``permitted``; a process may add
    to ``inheritable`` and ``ambient`` whatever is permitted.
    """
    known = (allowed.bounding, allowed.permitted, allowed.inheritable, allowed.ambient)
    bounding, permitted, inheritable, ambient = (set(each or ()) for each in known)
    if allowed.user == 0:
        most = permitted | ambient if allowed.no_new_privs else bounding | inheritable | permitted
    else:
        most = ambient
    raised = most if allowed.user == 0 else ambient
    if gains:
        most, raised = most | bounding, raised | bounding
    unknown = allowed.bounding is None or allowed.permitted is None
    return msgspec.structs.replace(
        allowed,
        permitted=None if unknown else tuple(sorted(most)),
        effective=None if unknown else tuple(sorted(most)),
        inheritable=None if unknown else tuple(sorted(most | inheritable)),
        ambient=None if unknown else tuple(sorted(raised)),
    )


def without_processes(spec: Privileges) -> Privileges:
    """Leave what holds for a container whatever its processes do: its namespaces, its mounts, and whether it has a filter."""
    return Privileges(
        seccomp=spec.seccomp,
        read_only=spec.read_only,
        masked=spec.masked,
        host_namespaces=spec.host_namespaces,
    )


def where_mounted(allowed: Privileges, mounts: Collection[str]) -> Privileges:
    """Leave out read-only mounts of the new container at places where the snapshot's has no mount: nothing is there to be written to."""
    if allowed.read_only is None:
        return allowed
    kept = (place for place in allowed.read_only if place in mounts or place == "/" or _is_the_kernels(place))
    return msgspec.structs.replace(allowed, read_only=tuple(kept))


def lower(held: Privileges, top: Privileges) -> Privileges:
    """Take from one process, or from all together, what is above ``top`` (a :func:`ceiling`), as far as that can be done exactly.

    A capability that is taken from the ambient set is taken from the permitted and effective sets as well: that is where it came
    from. What :func:`excess` does not call too much stays as it is.
    """
    lost = set() if held.ambient is None or top.ambient is None else set(held.ambient) - set(top.ambient)
    sets = {
        field: tuple(name for name in has if name in may and (name not in lost or field in {"bounding", "inheritable"}))
        for field in CAPABILITY_SETS
        if (has := getattr(held, field)) is not None and (may := getattr(top, field)) is not None
    }
    found = {each.field for each in (*_confinement(held, top), *_places(held, top), *_limits(held, top))}
    most, least = dict(top.rlimits or ()), top.oom_score_adj
    return msgspec.structs.replace(
        held,
        **sets,
        no_new_privs=True if "no_new_privs" in found else held.no_new_privs,
        lsm=top.lsm if "lsm" in found else held.lsm,
        read_only=_lowered_places(held, top),
        rlimits=(
            tuple((name, min(hard, most.get(name, hard))) for name, hard in held.rlimits or ())
            if "rlimits" in found
            else held.rlimits
        ),
        oom_score_adj=least if "oom_score_adj" in found else held.oom_score_adj,
    )


def excess(held: Privileges, allowed: Privileges) -> list[Excess]:
    """Say what processes that hold ``held`` have beyond what a container with ``allowed`` allows; nothing if they fit."""
    gained = gains(held, allowed)
    top = ceiling(allowed, gains=gained)
    return [
        *_identities(held, top, gained=gained),
        *_capabilities(held, top),
        *_confinement(held, top),
        *_places(held, top),
        *_limits(held, top),
    ]


def _lowered_places(held: Privileges, top: Privileges) -> tuple[str, ...] | None:
    if held.read_only is None:
        return None
    made = (place for place in top.read_only or () if not _is_the_kernels(place))
    return tuple(sorted({*held.read_only, *made}))


def _identities(held: Privileges, top: Privileges, *, gained: bool) -> Iterator[Excess]:
    if gained or top.user is None or top.permitted is None:
        return
    for field, right, mine in (
        ("uids", "CAP_SETUID", top.uids),
        ("gids", "CAP_SETGID", (*top.gids, *top.groups)),
        ("groups", "CAP_SETGID", (*top.gids, *top.groups)),
    ):
        more = sorted(set(getattr(held, field)) - set(mine))
        if more and right not in top.permitted:
            name = {"uids": "users", "gids": "groups", "groups": "supplementary groups"}[field]
            yield Excess(
                field, f"its processes are of the {name} {_list(more)}, which the new container has not", lowers=False
            )


def _capabilities(held: Privileges, top: Privileges) -> Iterator[Excess]:
    for field in CAPABILITY_SETS:
        has, may = getattr(held, field), getattr(top, field)
        if has is None or may is None:
            continue
        if more := sorted(set(has) - set(may)):
            yield Excess(
                field, f"it holds {_list(more)} ({field}), which the new container does not allow", lowers=True
            )


def _confinement(held: Privileges, top: Privileges) -> Iterator[Excess]:
    if top.no_new_privs and held.no_new_privs is False:
        yield Excess("no_new_privs", "it runs without no_new_privs, which the new container sets", lowers=True)
    if top.seccomp and held.seccomp == NO_FILTER:
        yield Excess("seccomp", "it runs without a seccomp filter, which the new container has", lowers=False)
    if (
        top.lsm
        and held.lsm is not None
        and not all(_confined_by(each, top.lsm) for each in held.lsm or ("unconfined",))
    ):
        was = _list(held.lsm) or "no profile"
        yield Excess("lsm", f"it is confined by {was}, the new container by {_list(top.lsm)}", lowers=True)
    known = held.host_namespaces is not None and top.host_namespaces is not None
    if known and (more := sorted(set(held.host_namespaces or ()) - set(top.host_namespaces or ()))):
        what = (
            f"it was in the node's own {_list(more)} namespace{'s' if len(more) > 1 else ''}, the new container is not"
        )
        yield Excess("host_namespaces", what, lowers=False)


def _places(held: Privileges, top: Privileges) -> Iterator[Excess]:
    masked = held.masked or ()
    bare = [] if held.masked is None else [each for each in top.masked or () if not _covered(each, masked)]
    if bare:
        yield Excess("masked", f"it sees {_list(bare)}, which the new container masks", lowers=False)
    if held.read_only is not None and top.read_only is not None:
        writable = [each for each in top.read_only if each not in held.read_only and not _covered(each, masked)]
        for lowers in (False, True):
            if places := [each for each in writable if _is_the_kernels(each) is not lowers]:
                what = f"it may write to {_list(places)}, which the new container mounts read-only"
                yield Excess("read_only", what, lowers=lowers)


def _limits(held: Privileges, top: Privileges) -> Iterator[Excess]:
    if top.permitted is None or "CAP_SYS_RESOURCE" in top.permitted:
        return
    most = dict(top.rlimits or ())
    if more := [name for name, hard in held.rlimits or () if hard > most.get(name, hard)]:
        yield Excess("rlimits", f"its hard limits of {_list(more)} are above the new container's", lowers=True)
    if held.oom_score_adj is not None and top.oom_score_adj is not None and held.oom_score_adj < top.oom_score_adj:
        what = f"its oom_score_adj is {held.oom_score_adj}, the new container's {top.oom_score_adj}"
        yield Excess("oom_score_adj", what, lowers=True)


def _confined_by(profile: str, allowed: Collection[str]) -> bool:
    """Whether a process is confined by one of the profiles, or by a child of one (``PROFILE//CHILD``, apparmor.d(5))."""
    return any(profile == each or profile.startswith(f"{each}//") for each in allowed)


def _is_the_kernels(place: str) -> bool:
    """Whether a path lies in /proc or /sys and is not a mount of its own unless somebody protects it, which cannot be made up for."""
    return place.startswith(("/proc/", "/sys/")) and not place.startswith("/sys/fs/cgroup")


def _covered(place: str, by: Collection[str]) -> bool:
    return any(place == each or place.startswith(f"{each.rstrip('/')}/") for each in by)


def _list(things: Collection[object]) -> str:
    shown = ", ".join(str(each) for each in list(things)[:_SHOWN])
    return f"{shown} …" if len(things) > _SHOWN else shown
