"""The last look before a restore: what CRIU's images would bring back, held to what the new container's spec allows.

The control plane has compared what is recorded, which is the word of the node that took the snapshot, and of an old snapshot
nothing is recorded. So the images are read before CRIU sees them: what is too much is taken out where that is exact, and else the
snapshot is not restored here. That says nothing against it: under a spec that allows more it is restored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from nodeworker.bundle import Bundle
from nodeworker.capture.afterwards import Afterwards
from nodeworker.capture.container_paths import resolved
from nodeworker.capture.criu import image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.criu_images import (
    CannotLowerError,
    MalformedImageError,
    left_writable,
    lower,
    mounted_places,
    read_privileges,
)
from nodeworker.domain.criu_images.aliases import writable_aliases
from nodeworker.domain.criu_images.extra_mounts import extra_mounts
from nodeworker.domain.criu_images.mounts import read_mounts
from nodeworker.domain.criu_images.open_files import opened_below
from nodeworker.domain.criu_images.privileges import mount_namespaces
from nodeworker.domain.criu_images.seccomp import filter_chains
from nodeworker.domain.criu_images.tasks import Tree, read_tree
from nodeworker.domain.criu_options import CriuVersion
from nodeworker.domain.seccomp_profile import excess_calls
from nodeworker.domain.spec_privileges import without_level
from nodeworker.errors import refusal
from woodfrog.protocol.failures import PRIVILEGES_EXCEED, FailureError
from woodfrog.protocol.privileges import Excess, Privileges, begun_alike, ceiling, excess, gains, where_mounted

_KERNELS: Final = ("/proc/", "/sys/")
_ABOUT_HARDWARE: Final = ("/sys/devices/", "/proc/acpi", "/proc/asound", "/proc/scsi")
"""Masked where a node has such hardware; a snapshot from a node without has nothing mounted there, and gets its masks afterwards."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How a snapshot may be restored."""

    lowered: tuple[str, ...] = ()
    """What was taken from its processes, as warnings of the start."""
    lsm_profile: str = ""
    """By what they are to be confined, where that is not what the images say."""
    gains_for: tuple[int, tuple[int, ...]] | None = None
    """The user and groups that no file of the snapshot may give more to; none: its files may gain what its processes might."""
    afterwards: Afterwards | None = None
    """What is to be done to the restored container before it may run."""


def check(images: Path, live: Bundle, spec: Privileges, recorded: Privileges | None, criu: CriuVersion) -> Checked:
    """Hold the images in a directory to the live bundle, and lower what is too much in them.

    Args:
        images: the container's own directory, whose files may be replaced.
        live: the bundle of the new container.
        spec: what it allows, as the engine wrote it; the runtime may have changed the bundle since.
        recorded: what is recorded of the snapshot: as which user its container was started, and with which seccomp profile.
        criu: the version that is going to restore.

    Raises:
        FailureError: ``privileges-exceed``: the processes hold what the new container does not allow and cannot be taken
            from them. ``images-unreadable``: what they hold cannot be known.
        OSError: an image could not be read or written.
    """
    files = ImageFiles(images)
    try:
        tree = read_tree(files)
        held = read_privileges(files, tree)
        if recorded is not None:
            held = msgspec.structs.replace(held, user=recorded.user, given=recorded.given)
        held = msgspec.structs.replace(held, lsm=tuple(sorted({without_level(each) for each in held.lsm or ()})))
        allowed = where_mounted(_here(spec, live.rootfs), mounted_places(files, tree))
        top = ceiling(allowed, gains=gains(held, allowed))
        found = [*excess(held, allowed), *_extra(files, tree, live, top), *_filters(files, tree, live, spec, recorded)]
        if refused := [each for each in found if not each.lowers]:
            raise _refusal(refused)
        bare = _bare(spec, held)
        if opened := opened_below(files, bare):
            what = f"it has {', '.join(opened[:8])} open, which the new container masks"
            raise _refusal([Excess("masked", what, lowers=False)])
        changed = lower(files, top, tree)
    except CannotLowerError as problem:
        raise _refusal([Excess("read_only", str(problem), lowers=False)]) from problem
    except MalformedImageError as problem:
        raise _unreadable(problem) from problem
    image_files.replace(images, changed)
    said = found if recorded is None else _beyond_its_own(held, recorded, allowed)
    writable_root = bool(left_writable(top.read_only or (), criu))
    confine = any(each.field == "lsm" for each in found) or live.lsm_profile.startswith("selinux:")
    return Checked(
        lowered=tuple(f"lowered to what the new container allows: {each.what}" for each in said),
        lsm_profile=live.lsm_profile if confine else "",
        gains_for=_gains_for(held, spec, live),
        afterwards=Afterwards(read_only_root=writable_root, mask=bare) if writable_root or bare else None,
    )


def _gains_for(held: Privileges, spec: Privileges, live: Bundle) -> tuple[int, tuple[int, ...]] | None:
    """Return whom files of the snapshot may not give more to: nobody who is root, alike, or of a user namespace of his own."""
    if not spec.user or begun_alike(held, spec) or live.facts.id_mappings:
        return None
    return spec.user, (*spec.gids, *spec.groups)


def _beyond_its_own(held: Privileges, recorded: Privileges, allowed: Privileges) -> list[Excess]:
    """Leave out what the snapshot's own container was to have read-only, too: runc leaves some of that writable (cgroup v1)."""
    if held.read_only is None or recorded.read_only is None:
        return excess(held, allowed)
    places = tuple(sorted({*held.read_only, *recorded.read_only}))
    return excess(msgspec.structs.replace(held, read_only=places), allowed)


def _here(spec: Privileges, rootfs: Path) -> Privileges:
    """Name places as they are mounted, and leave out what a runtime leaves out: paths that this kernel or the image does not have."""
    masked = {_there(each, rootfs) for each in spec.masked or () if not _is_hardware(each)}
    read_only = {_there(each, rootfs) for each in spec.read_only or ()}
    return msgspec.structs.replace(
        spec,
        masked=tuple(sorted(each for each in masked if os.path.lexists(_outside(each, rootfs)))),
        read_only=tuple(sorted(each for each in read_only if not each.startswith(_KERNELS) or os.path.lexists(each))),
    )


def _there(place: str, rootfs: Path) -> str:
    return place if place.startswith(_KERNELS) else resolved(rootfs, place)


def _outside(place: str, rootfs: Path) -> str:
    return place if place.startswith(_KERNELS) else f"{rootfs}{place}"


def _extra(files: ImageFiles, tree: Tree, live: Bundle, top: Privileges) -> Iterable[Excess]:
    if top.permitted is None or "CAP_SYS_ADMIN" in top.permitted:
        return
    mounts = (resolved(live.rootfs, each) for each in live.facts.mounts)
    named = {*mounts, *(top.masked or ()), *(top.read_only or ())} - {"/"}
    if places := extra_mounts(files, tree, named):
        what = f"it has mounted something at {', '.join(places[:8])}, which the new container may not do"
        yield Excess("mounts", what, lowers=False)
    found = () if "mount" in tree.shared_namespaces else read_mounts(files, mount_namespaces(tree))
    if places := writable_aliases(found, named, top.read_only or ()):
        what = f"it may write at {', '.join(places[:8])} to what the new container mounts read-only"
        yield Excess("read_only", what, lowers=False)


def _filters(
    files: ImageFiles, tree: Tree, live: Bundle, spec: Privileges, recorded: Privileges | None
) -> Iterable[Excess]:
    """Compare the compiled filters with the new profile, unless the same profile is recorded."""
    if not live.seccomp or not spec.seccomp or (recorded is not None and recorded.seccomp == spec.seccomp):
        return
    for chain in filter_chains(files, tree.tasks):
        if calls := excess_calls(chain, live.seccomp, os.uname().machine):
            what = f"its seccomp filter lets through {calls}, which the new container's profile does not"
            yield Excess("seccomp", what, lowers=False)
            return


def _bare(spec: Privileges, held: Privileges) -> tuple[str, ...]:
    """Return which directories about hardware this node masks, and the snapshot's, without such hardware, did not."""
    there = (each for each in spec.masked or () if _is_hardware(each))
    return tuple(
        each for each in there if not any(f"{each}/".startswith(f"{mask.rstrip('/')}/") for mask in held.masked or ())
    )


def _is_hardware(place: str) -> bool:
    return place.startswith(_ABOUT_HARDWARE) and os.path.isdir(place)  # noqa: PTH112 -- places are text here


def _refusal(found: list[Excess]) -> FailureError:
    return refusal(
        PRIVILEGES_EXCEED,
        "; ".join(each.what for each in found),
        "Its processes hold more than the new container allows and it cannot be taken from them. Allow it in the new "
        "container, start from an older snapshot, or start from the image; the snapshot is kept.",
    )


def _unreadable(problem: MalformedImageError) -> FailureError:
    return refusal(
        "images-unreadable",
        f"what the snapshot's processes hold cannot be read from CRIU's images: {problem}",
        "The snapshot is kept and left out of this start. If CRIU on this node is newer than the node worker, update the worker.",
    )
