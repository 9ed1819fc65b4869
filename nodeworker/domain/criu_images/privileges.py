"""What the processes of a snapshot will hold once CRIU has restored them, as its images say and nothing else.

What a log says of a snapshot is the word of the node that took it; what CRIU does is said by the images. They are read before
CRIU sees them, and everything that is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Final

from nodeworker.domain.capabilities import names_of
from nodeworker.domain.criu_images.mounts import Mount, masked_places, read_mounts, read_only_places
from nodeworker.domain.criu_images.seccomp import all_filtered
from nodeworker.domain.criu_images.tasks import RESOURCES, Credentials, Task, Thread, Tree, read_tree
from woodfrog.protocol.privileges import NO_FILTER, SOME_FILTER, Privileges

_UNCONFINED: Final = "unconfined"


def read_privileges(images: Mapping[str, bytes], tree: Tree | None = None) -> Privileges:
    """Return what the processes of a snapshot hold, all together, from CRIU's images: their names and contents.

    ``images`` may read lazily; asked for are ``inventory.img``, ``pstree.img``, ``seccomp.img``, and of each process and thread
    ``core-ID.img``, ``ids-PID.img`` and ``mountpoints-ID.img``. ``tree`` is what :func:`read_tree` gave, if it was read before.

    ``seccomp`` is :data:`SOME_FILTER` where every thread has one, for CRIU keeps the compiled filters and not the profile;
    ``user`` is unknown; ``lsm`` names ``unconfined`` if some threads are confined and others are not. ``read_only`` are all
    places where nothing but read-only mounts are, and ``masked`` are paths with something empty over them:
    a path that did not exist at the dump is in neither, so ask for those only that exist on this node.
    ``host_namespaces`` are those in which CRIU will leave the processes, beside itself.

    Raises:
        MalformedImageError: an image is missing, or not what CRIU writes since 3.9.
    """
    tree = tree or read_tree(images)
    mounts = _mounts(images, tree)
    credentials = [thread.credentials for task in tree.tasks for thread in task.threads]
    return Privileges(
        uids=tuple(sorted({uid for one in credentials for uid in one.uids})),
        gids=tuple(sorted({gid for one in credentials for gid in one.gids})),
        groups=tuple(sorted({group for one in credentials for group in one.groups})),
        bounding=_capabilities(one.bounding for one in credentials),
        permitted=_capabilities(one.permitted for one in credentials),
        effective=_capabilities(one.effective for one in credentials),
        inheritable=_capabilities(one.inheritable for one in credentials),
        ambient=_capabilities(one.ambient for one in credentials),
        no_new_privs=all(one.no_new_privs for one in credentials),
        seccomp=SOME_FILTER if all_filtered(images, tree.tasks) else NO_FILTER,
        lsm=_profiles(credentials),
        read_only=tuple(sorted(read_only_places(mounts))),
        masked=tuple(sorted(masked_places(mounts))),
        host_namespaces=tuple(sorted(tree.shared_namespaces)),
        rlimits=tuple(_hard_limits(tree.tasks)),
        oom_score_adj=min(task.oom_score_adj for task in tree.tasks),
    )


def mounted_places(images: Mapping[str, bytes], tree: Tree | None = None) -> tuple[str, ...]:
    """Return every place at which CRIU will mount something, ``/`` among them, in any mount namespace of the snapshot.

    One that the new container's spec does not name was mounted by a process, with rights that the new one may not have.

    Raises:
        MalformedImageError: as :func:`read_privileges`.
    """
    return tuple(sorted({mount.place for mount in _mounts(images, tree or read_tree(images))}))


def mount_namespaces(tree: Tree) -> tuple[int, ...]:
    """Return the mount namespaces of the processes, the first process' first."""
    return tuple(dict.fromkeys(task.mount_namespace for task in tree.tasks))


def held_by(task: Task, thread: Thread) -> Privileges:
    """Return what one thread holds, of all that it can be lowered in."""
    credentials = thread.credentials
    return Privileges(
        bounding=names_of(credentials.bounding),
        permitted=names_of(credentials.permitted),
        effective=names_of(credentials.effective),
        inheritable=names_of(credentials.inheritable),
        ambient=names_of(credentials.ambient),
        no_new_privs=credentials.no_new_privs,
        rlimits=tuple((name, hard) for name, (_, hard) in zip(RESOURCES, task.rlimits, strict=False)),
        oom_score_adj=task.oom_score_adj,
    )


def _mounts(images: Mapping[str, bytes], tree: Tree) -> list[Mount]:
    return [] if "mount" in tree.shared_namespaces else read_mounts(images, mount_namespaces(tree))


def _capabilities(sets: Iterable[int]) -> tuple[str, ...]:
    return names_of(reduce(or_, sets, 0))


def _profiles(credentials: Collection[Credentials]) -> tuple[str, ...]:
    found = {one.lsm_profile or _UNCONFINED for one in credentials}
    return tuple(sorted(found)) if found != {_UNCONFINED} else ()


def _hard_limits(tasks: Collection[Task]) -> Iterator[tuple[str, int]]:
    for number, name in enumerate(RESOURCES):
        yield name, max(task.rlimits[number][1] for task in tasks)
