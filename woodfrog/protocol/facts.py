"""Facts: what a node offers and what a snapshot depends on, and when the two do not fit.

A restored process goes on with the registers, vDSO, page size and mounts of the machine that it was dumped on. CRIU
finds some differences only half-way through a restore, so they are compared before. A fact that either side does not
know is *unknown*, never a mismatch: refusing on ignorance would turn every upgrade into a cold start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.privileges import Excess, Privileges, excess, where_mounted, without_processes

GPU_MOVE_DRIVER: Final = 580
"""The first NVIDIA driver (CUDA 13.0) whose checkpoint API can restore onto other GPUs than those of the dump."""
MIG_PREFIX: Final = "MIG-"
"""How the UUID of a slice of a GPU begins, where a GPU's own begins with ``GPU-``."""

_DIGEST_SHOWN: Final = len("sha256:") + 12


class GpuFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """One GPU of a node, as NVML tells of it. ``None`` means unknown."""

    uuid: str
    """``GPU-`` and 36 characters."""
    model: str | None = None
    compute_capability: str | None = None
    """E.g. ``9.0``."""
    memory_bytes: int | None = None
    mig: bool | None = None
    """Whether it is cut into slices, which the driver cannot checkpoint."""
    persistence: bool | None = None
    """Whether the driver stays initialized while nobody uses the GPU."""
    minor: int | None = None
    """N of its device node /dev/nvidiaN."""


class NodeFacts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a node can run. ``None`` and empty mean unknown."""

    architecture: str | None = None
    """``uname -m``."""
    kernel_release: str | None = None
    page_size_bytes: int | None = None
    cgroup_version: int | None = None
    """1 (or hybrid, where the freezer is a v1 controller) or 2."""
    cpu_model: str | None = None
    cpu_features: tuple[str, ...] = ()
    """The ``flags`` line of /proc/cpuinfo, sorted."""
    criu_version: str | None = None
    runc_version: str | None = None
    gpu_driver: str | None = None
    """Version of the NVIDIA driver, e.g. ``580.65.06``; unknown where there is none."""
    gpus: tuple[GpuFacts, ...] = ()
    """In NVML's order, which is that of the PCI bus."""
    store: str | None = None
    """Identity of the snapshot store, as its mark gives it. Of a snapshot: the store that holds its bytes."""


FRESH_CHARS = 63
"""How long a wish for a fresh start may be."""


class ContainerFacts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a container brings that its processes may hold on to."""

    image: str | None = None
    """The image's name as the engine gives it, or the root filesystem's path where there is no image."""
    image_digest: str | None = None
    """The image's id, ``sha256:`` and the digest of its configuration, where the engine tells it."""
    mounts: tuple[str, ...] = ()
    """Destinations of the mounts in the bundle's config.json, sorted."""
    fresh: str = ""
    """That it is to start without its past: any text, each of which counts once for an id."""
    interval_seconds: float | None = None
    """How often its owner wants it dumped while it runs; 0 for never, unknown for whatever the control plane's policy is."""
    pod: str | None = None
    """The name of the pod that it is in, where there are pods."""
    pod_uid: str | None = None
    service_account: str | None = None
    """The ServiceAccount of its pod, as the Kubernetes API says."""
    owner_kind: str | None = None
    """The kind of its pod's owner, as the Kubernetes API says, such as ``Job``; empty for a pod that nobody owns."""
    gpus: tuple[str, ...] | None = None
    """UUIDs of the GPUs that it sees, in the node's order: every one of them belongs to the driver's checkpoint."""
    id_mappings: tuple[str, ...] = ()
    """How users and groups of its user namespace map to the node's, as ``uid INSIDE OUTSIDE COUNT`` and ``gid …``; empty where
    they are the node's, as in every container of which none are known."""
    privileges: Privileges | None = None
    """Of a container that is being created what its spec allows, of a snapshot what its processes held."""


def at_start(container: ContainerFacts) -> ContainerFacts:
    """Leave out of a container's facts what its spec allows its processes: only a dump says what they hold."""
    if container.privileges is None:
        return container
    return msgspec.structs.replace(container, privileges=without_processes(container.privileges))


def misfit(
    taken_on: NodeFacts,
    taken_from: ContainerFacts,
    node: NodeFacts,
    container: ContainerFacts,
    *,
    taken_at: NodeName | None = None,
    bounded: bool = True,
) -> str | None:
    """Say why a snapshot cannot go on in ``container`` on ``node``, or ``None`` if nothing known speaks against it.

    CRIU compares CPU features itself (``cpu-cap``) but only in part and late; a feature that the snapshot's node had and
    this one lacks makes the restored process die of SIGILL at some later time, which is worse than a cold start. The images
    name the cgroup controllers that were there, and a kernel mounts each in one version only. CRIU makes the user namespace of
    the dump again, with its mapping, whatever the new container's is: its files would be somebody else's. ``taken_at`` names the
    snapshot's node in what is said. A node with another store cannot read the snapshot at all. What the processes hold beyond
    what the new container allows, and what cannot be taken from them, counts if they are ``bounded`` by it.
    """
    if other_store(taken_on, node):
        where = "another store" if taken_at is None else f"the store of node {taken_at}"
        return f"its bytes are in {where}, which this node does not have"
    problem = _machine_misfit(taken_on, node)
    if problem is not None:
        return problem
    if taken_from.image_digest and container.image_digest:
        if taken_from.image_digest != container.image_digest:
            return f"the image changed from {_image(taken_from)} to {_image(container)}"
    elif taken_from.image and container.image and taken_from.image != container.image:
        return f"the image changed from {taken_from.image} to {container.image}"
    missing = sorted(set(taken_from.mounts) - set(container.mounts)) if container.mounts else []
    if missing:
        driver_files = [mount for mount in missing if ".so." in mount and ("/libcuda" in mount or "/libnv" in mount)]
        what = "driver library" if driver_files else "mount"
        return f"the new container has no {what} at {', '.join(driver_files or missing)}"
    was, now = taken_from.id_mappings, container.id_mappings
    if was != now:
        return f"its users are mapped to {_mapping(was)}, the new container's to {_mapping(now)}"
    too_much = "; ".join(each.what for each in excesses(taken_from, container) if not each.lowers) if bounded else ""
    return too_much or (gpu_misfit(taken_on, taken_from, node, container) if taken_from.gpus else None)


def excesses(taken_from: ContainerFacts, container: ContainerFacts) -> list[Excess]:
    """Say what a snapshot's processes hold, as it is known, and a new container does not allow."""
    if taken_from.privileges is None or container.privileges is None:
        return []
    return excess(taken_from.privileges, where_mounted(container.privileges, taken_from.mounts))


def _machine_misfit(taken_on: NodeFacts, node: NodeFacts) -> str | None:
    for name, there, here in (
        ("architecture", taken_on.architecture, node.architecture),
        ("page size", taken_on.page_size_bytes, node.page_size_bytes),
        ("cgroup version", taken_on.cgroup_version, node.cgroup_version),
    ):
        if there is not None and here is not None and there != here:
            return f"it was taken on {name} {there}, this node has {here}"
    if taken_on.cpu_features and node.cpu_features:
        lacking = sorted(set(taken_on.cpu_features) - set(node.cpu_features))
        if lacking:
            return f"this node's CPU lacks {', '.join(lacking[:8])}{' …' if len(lacking) > 8 else ''}"
    return None


def other_store(taken_on: NodeFacts, node: NodeFacts) -> bool:
    """Return whether a node is known to have another store than the one that holds a snapshot."""
    return taken_on.store is not None and node.store is not None and taken_on.store != node.store


def _image(container: ContainerFacts) -> str:
    digest = (container.image_digest or "")[:_DIGEST_SHOWN]
    return f"{container.image} ({digest})" if container.image else digest


def _mapping(id_mappings: tuple[str, ...]) -> str:
    return ", ".join(id_mappings) or "the node's own"


def pair_gpus(sources: Sequence[str], targets: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Say onto which GPU each checkpointed one is restored: itself where it is there, else the free ones in order.

    The driver wants every checkpointed GPU in the map. Fewer targets than sources leave sources out: refuse that before.
    """
    free = [uuid for uuid in targets if uuid not in sources]
    pairs = ((uuid, uuid if uuid in targets else next(iter(free), None)) for uuid in sources)
    made = []
    for old, new in pairs:
        if new is not None:
            made.append((old, new))
            free = [uuid for uuid in free if uuid != new]
    return tuple(made)


def gpu_misfit(
    taken_on: NodeFacts, taken_from: ContainerFacts, node: NodeFacts, container: ContainerFacts
) -> str | None:
    """Say why what lay on the snapshot's GPUs cannot go on on the container's; CRIU or the driver would find out late."""
    sources, targets = taken_from.gpus or (), container.gpus
    if taken_on.gpu_driver and node.gpu_driver and taken_on.gpu_driver != node.gpu_driver:
        was, now = taken_on.gpu_driver, node.gpu_driver
        if driver_order(now) < driver_order(was):
            return f"this node's NVIDIA driver {now} is older than {was}, with which it was taken"
        return f"it holds the NVIDIA driver's libraries of {was} (libcuda.so.{was}), this node has those of {now}"
    if targets is None:
        return None
    if len(targets) < len(sources):
        return f"it needs {len(sources)} GPU{'s' if len(sources) > 1 else ''}, the new container has {len(targets)}"
    if any(uuid.startswith(MIG_PREFIX) for uuid in (*sources, *targets)):
        return "MIG slices of a GPU cannot be restored"
    pairs = pair_gpus(sources, targets)
    moved = any(old != new for old, new in pairs)
    if moved and node.gpu_driver and driver_order(node.gpu_driver) < (GPU_MOVE_DRIVER,):
        return f"this node's NVIDIA driver {node.gpu_driver} cannot restore onto other GPUs; {GPU_MOVE_DRIVER} can"
    was_there = {gpu.uuid: gpu for gpu in taken_on.gpus}
    are_here = {gpu.uuid: gpu for gpu in node.gpus}
    known = ((was_there.get(old), are_here.get(new)) for old, new in pairs)
    differences = (_gpu_difference(old, new) for old, new in known if old is not None and new is not None)
    return next((difference for difference in differences if difference is not None), None)


def _gpu_difference(was: GpuFacts, now: GpuFacts) -> str | None:
    if now.mig:
        return f"GPU {now.uuid} is in MIG mode, in which nothing can be restored"
    for name, there, here in (
        ("model", was.model, now.model),
        ("compute capability", was.compute_capability, now.compute_capability),
    ):
        if there is not None and here is not None and there != here:
            return f"it was taken on a GPU of {name} {there}, the new container has {here}"
    if was.memory_bytes is not None and now.memory_bytes is not None and now.memory_bytes < was.memory_bytes:
        return f"it was taken on a GPU with {was.memory_bytes >> 20} MiB, the new container's has {now.memory_bytes >> 20} MiB"
    return None


def driver_order(version: str) -> tuple[int, ...]:
    """Make a driver's version comparable; what is not a number ends it."""
    numbers: list[int] = []
    for word in version.split("."):
        if not word.isdecimal():
            break
        numbers.append(int(word))
    return tuple(numbers)
