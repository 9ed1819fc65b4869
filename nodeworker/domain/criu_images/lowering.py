"""Taking privileges away from the processes of a snapshot before CRIU restores them.

CRIU gives every thread the credentials that are in its image, and every mount its flags, whatever the new container's
config.json says. So the images are rewritten, with less in them: only what changes is touched, field by field, and everything
else stays byte for byte, also what is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from nodeworker.domain.capabilities import kept
from nodeworker.domain.criu_images import form, mounts, tasks
from nodeworker.domain.criu_images.mounts import Mount, read_mounts
from nodeworker.domain.criu_images.open_files import writers
from nodeworker.domain.criu_images.privileges import held_by, mount_namespaces
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from nodeworker.domain.criu_images.tasks import Task, Thread, Tree, read_tree
from nodeworker.domain.criu_options import CriuVersion
from woodfrog.protocol import privileges
from woodfrog.protocol.privileges import Privileges

_SHOWN: Final = 3
_ROOT_SINCE: Final[CriuVersion] = (4, 2, 0)


class CannotLowerError(ValueError):
    """The processes cannot be lowered as asked: CRIU could not restore them so. The message is a clause about the snapshot."""


def lower(images: Mapping[str, bytes], top: Privileges, tree: Tree | None = None) -> dict[str, bytes]:
    """Return the images that are to replace those of the same names, so that nothing is above ``top``; empty if nothing is.

    ``images`` is as for :func:`read_privileges`; beside those, ``files.img``, ``fdinfo-ID.img`` and ``mm-PID.img`` are asked for
    if a mount becomes read-only. ``top`` is a :func:`woodfrog.protocol.privileges.ceiling`, and each process and thread is lowered as
    :func:`woodfrog.protocol.privileges.lower` says:

    - of every thread the sets of capabilities are cut, and ``no_new_privs`` is set;
    - of every process hard limits are cut, soft ones with them, and ``oom_score_adj`` is raised;
    - mounts at the places of ``top.read_only``, ``/`` among them, become read-only; those that are masked stay as they are.

    Users, seccomp, masks and namespaces cannot be lowered, and ``lsm`` is for the runtime to set. What an older CRIU does not do
    although its images say so, says :func:`left_writable`.

    Raises:
        CannotLowerError: a place that is to be read-only is not a mount in the snapshot, or a process writes to it.
        MalformedImageError: an image is missing, or not what CRIU writes.
    """
    tree = tree or read_tree(images)
    changed = dict(_mounts(images, tree, top))
    for task in tree.tasks:
        for thread in task.threads:
            name = tasks.CORE.format(thread.id)
            data = _core(tasks.read_core(images, thread.id), task, thread, top)
            if data != images[name]:
                changed[name] = data
    return changed


def left_writable(places: Collection[str], criu: CriuVersion) -> tuple[str, ...]:
    """Return which of these read-only places a CRIU leaves writable whatever the images say: before 4.2 the root (its issue 2632).

    It is made read-only afterwards (:mod:`nodeworker.capture.afterwards`).
    """
    return tuple(place for place in places if place == "/" and criu < _ROOT_SINCE)


@lru_cache(maxsize=64)
def _lowered(held: Privileges, top: Privileges) -> Privileges:
    """Lower one thread; most of a container's threads hold the same."""
    return privileges.lower(held, top)


def _core(core: Message, task: Task, thread: Thread, top: Privileges) -> bytes:
    held = held_by(task, thread)
    lowered = _lowered(held, top)
    inner = core.message(tasks.CORE_THREAD, "a thread")
    creds = _credentials(inner.message(tasks.THREAD_CREDS, "credentials"), held, lowered)
    fields = {tasks.CORE_THREAD: data_field(tasks.CORE_THREAD, inner.rewritten(creds))}
    if thread.id == task.pid:
        whole = core.message(tasks.CORE_TC, "a process")
        fields[tasks.CORE_TC] = data_field(tasks.CORE_TC, whole.rewritten(_process(whole, held, lowered)))
    return form.write_messages([core.rewritten(fields)], form.CORE)


def _credentials(creds: Message, held: Privileges, lowered: Privileges) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    for kind, number in tasks.CAPABILITIES.items():
        names: Sequence[str] = getattr(lowered, kind)
        if names != getattr(held, kind):
            words = tasks.capability_words(creds, kind)
            cut = (kept(word << 32 * place, names) >> 32 * place for place, word in enumerate(words))
            fields[number] = b"".join(number_field(number, word) for word in cut)
    if lowered.no_new_privs and not held.no_new_privs:
        fields[tasks.NO_NEW_PRIVS] = number_field(tasks.NO_NEW_PRIVS, 1)
    encoded = creds.rewritten(fields)
    return {tasks.THREAD_CREDS: data_field(tasks.THREAD_CREDS, encoded)} if fields else {}


def _process(whole: Message, held: Privileges, lowered: Privileges) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    if lowered.oom_score_adj != held.oom_score_adj:
        fields[tasks.TC_OOM_SCORE_ADJ] = number_field(tasks.TC_OOM_SCORE_ADJ, lowered.oom_score_adj or 0)
    if lowered.rlimits != held.rlimits:
        limits = whole.message(tasks.TC_RLIMITS, "limits")
        most = dict(lowered.rlimits or ())
        cut = b""
        for number, one in enumerate(limits.messages(tasks.RLIMITS, "a limit")):
            name = tasks.RESOURCES[number] if number < len(tasks.RESOURCES) else ""
            cut += data_field(tasks.RLIMITS, _limit(one, most.get(name)))
        fields[tasks.TC_RLIMITS] = data_field(tasks.TC_RLIMITS, limits.rewritten({tasks.RLIMITS: cut}))
    return fields


def _limit(limit: Message, most: int | None) -> bytes:
    soft, hard = limit.uint64(tasks.RLIMIT_SOFT), limit.uint64(tasks.RLIMIT_HARD)
    if most is None or hard <= most:
        return limit.raw
    return limit.rewritten(
        {
            tasks.RLIMIT_SOFT: number_field(tasks.RLIMIT_SOFT, min(soft, most)),
            tasks.RLIMIT_HARD: number_field(tasks.RLIMIT_HARD, most),
        }
    )


def _mounts(images: Mapping[str, bytes], tree: Tree, top: Privileges) -> Iterator[tuple[str, bytes]]:
    if not top.read_only or "mount" in tree.shared_namespaces:
        return
    namespaces = mount_namespaces(tree)
    found = read_mounts(images, namespaces)
    places = _writable(found, top.read_only)
    if not places:
        return
    ids = {mount.id for mount in found if mount.place in places and not mount.read_only}
    _check(images, tree, found, places, ids)
    for namespace in namespaces:
        name = mounts.IMAGE.format(namespace)
        entries = form.read_messages(images[name], form.MOUNTS, name)
        cut = [_read_only(entry) if entry.uint32(mounts.ID) in ids else entry.raw for entry in entries]
        data = form.write_messages(cut, form.MOUNTS)
        if data != images[name]:
            yield name, data


def _writable(found: list[Mount], wanted: Sequence[str]) -> list[str]:
    done, masked = mounts.read_only_places(found), mounts.masked_places(found)
    return [
        place
        for place in wanted
        if place not in done and not any(place == each or place.startswith(f"{each}/") for each in masked)
    ]


def _check(images: Mapping[str, bytes], tree: Tree, found: list[Mount], places: list[str], ids: set[int]) -> None:
    there = {mount.place for mount in found}
    missing = [place for place in places if place not in there]
    if missing:
        raise CannotLowerError(f"{', '.join(missing[:_SHOWN])}, to be read-only, is not a mount of its own there")
    who = writers(images, tree.tasks, found, ids)
    if who:
        held = ", ".join(f"process {one.pid} holds {one.path[:200]!r}" for one in who[:_SHOWN])
        more = f" and {len(who) - _SHOWN} more" if len(who) > _SHOWN else ""
        raise CannotLowerError(f"{held}{more} open for writing, on a mount that is to be read-only")


def _read_only(entry: Message) -> bytes:
    flags = entry.uint32(mounts.FLAGS) | mounts.READ_ONLY
    return entry.rewritten({mounts.FLAGS: number_field(mounts.FLAGS, flags)})
