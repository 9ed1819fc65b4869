"""Mounts of a snapshot that the new container's spec does not name: made by a process, with rights that the new one may not have.

CRIU makes them again by itself, with the device and the options in the image. Another /proc or /sys is one without masks, and a
file system on a device may be the node's disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from nodeworker.domain.criu_images.mounts import Mount, read_mounts
from nodeworker.domain.criu_images.privileges import mount_namespaces
from nodeworker.domain.criu_images.tasks import Tree

_HARMLESS: Final = frozenset({5, 6, 14})
"""tmpfs, devpts, mqueue: they hold nothing of the node (FSTYPE__ of CRIU, images/mnt.proto)."""
_ON_DEVICES: Final = frozenset({0, 16, 17})
"""Of an unknown type, found out by CRIU, and overlay: a bind of what is mounted anyway has its device."""


def extra_mounts(images: Mapping[str, bytes], tree: Tree, named: Collection[str]) -> tuple[str, ...]:
    """Return where a snapshot has mounts that could show something of the node and are not, or are not below, those ``named``.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    if "mount" in tree.shared_namespaces:
        return ()
    mounts = read_mounts(images, mount_namespaces(tree))
    own = {mount.device for mount in mounts if _is_named(mount.place, named) and mount.kind in _ON_DEVICES}
    return tuple(sorted({mount.place for mount in mounts if not _is_named(mount.place, named) and _shows(mount, own)}))


def _is_named(place: str, named: Collection[str]) -> bool:
    return place == "/" or any(place == each or place.startswith(f"{each}/") for each in named)


def _shows(mount: Mount, own: Collection[int]) -> bool:
    if mount.key is not None or mount.kind in _HARMLESS:  # the runtime says what to mount there
        return False
    return mount.kind not in _ON_DEVICES or mount.device not in own
