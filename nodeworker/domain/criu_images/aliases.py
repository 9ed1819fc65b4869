"""Writable mounts of a snapshot that show what another of its mounts shows read-only.

A process that might mount has perhaps bound a volume, or a part of the root file system, to a second place. Made read-only where
the new container's spec names it, the volume stays writable there: CRIU binds the second mount from the first and then gives it its
own flags (criu/mount-v2.c, ``do_bind_mount_v2``). Who forges images can do the same with the key of the volume, which says to the
runtime what to mount, at any place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from nodeworker.domain.criu_images.mounts import Mount

_OF_DEVICES: Final = frozenset({0, 16, 17})
"""Of an unknown type, found out by CRIU, and overlay (images/mnt.proto): what runtimes bind, and root file systems."""


def writable_aliases(mounts: Collection[Mount], named: Collection[str], read_only: Collection[str]) -> tuple[str, ...]:
    """Return where a mount is writable that shows a part of what is to be read-only elsewhere.

    ``named`` are the places of the new container's own mounts: what the runtime puts there by the key of that very place is as its
    spec wants it. ``read_only`` are those of them that are read-only.
    """
    protected = [mount for mount in mounts if mount.place in read_only and _may_have_aliases(mount)]
    own = {place for place in named if place not in read_only}
    return tuple(
        sorted(
            {
                mount.place
                for mount in mounts
                if not (mount.read_only or mount.place in read_only)
                and mount.place != "/"
                and not (mount.place in own and mount.key == mount.place)
                and any(_shows(mount, other) for other in protected)
            }
        )
    )


def _may_have_aliases(mount: Mount) -> bool:
    return mount.kind in _OF_DEVICES or mount.key is not None


def _shows(mount: Mount, protected: Mount) -> bool:
    if mount.key is not None:
        return mount.key in {protected.key, protected.place} and not mount.is_empty
    return mount.device == protected.device and (
        _within(mount.root, protected.root) or _within(protected.root, mount.root)
    )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
