"""Facts: what a node offers and what a snapshot depends on, and when the two do not fit.

A restored process goes on with the registers, vDSO, page size and mounts of the machine that it was dumped on. CRIU
finds some differences only half-way through a restore, so they are compared before. A fact that either side does not
know is *unknown*, never a mismatch: refusing on ignorance would turn every upgrade into a cold start.
"""

from __future__ import annotations

import msgspec


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


class ContainerFacts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a container brings that its processes may hold on to."""

    image: str | None = None
    """The image's name as the engine gives it, or the root filesystem's path where there is no image."""
    image_digest: str | None = None
    mounts: tuple[str, ...] = ()
    """Destinations of the mounts in the bundle's config.json, sorted."""
    interval_seconds: float | None = None
    """How often its owner wants it dumped while it runs; 0 for never, unknown for whatever the control plane's policy is."""
    pod: str | None = None
    """The name of the pod that it is in, where there are pods."""
    pod_uid: str | None = None


def misfit(taken_on: NodeFacts, taken_from: ContainerFacts, node: NodeFacts, container: ContainerFacts) -> str | None:
    """Say why a snapshot cannot go on in ``container`` on ``node``, or ``None`` if nothing known speaks against it.

    CRIU compares CPU features itself (``cpu-cap``) but only in part and late; a feature that the snapshot's node had and
    this one lacks makes the restored process die of SIGILL at some later time, which is worse than a cold start.
    """
    for name, there, here in (
        ("architecture", taken_on.architecture, node.architecture),
        ("page size", taken_on.page_size_bytes, node.page_size_bytes),
    ):
        if there is not None and here is not None and there != here:
            return f"it was taken on {name} {there}, this node has {here}"
    if taken_on.cpu_features and node.cpu_features:
        lacking = sorted(set(taken_on.cpu_features) - set(node.cpu_features))
        if lacking:
            return f"this node's CPU lacks {', '.join(lacking[:8])}{' …' if len(lacking) > 8 else ''}"
    if taken_from.image_digest and container.image_digest:
        if taken_from.image_digest != container.image_digest:
            return f"the image changed from {taken_from.image_digest} to {container.image_digest}"
    elif taken_from.image and container.image and taken_from.image != container.image:
        return f"the image changed from {taken_from.image} to {container.image}"
    missing = sorted(set(taken_from.mounts) - set(container.mounts)) if container.mounts else []
    if missing:
        return f"the new container has no mount at {', '.join(missing)}"
    return None
