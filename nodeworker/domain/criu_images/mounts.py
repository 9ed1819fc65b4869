"""The mounts of a snapshot, as CRIU is going to make them.

``mountpoints-NAMESPACE.img`` lists the mounts of one mount namespace. CRIU makes each with its flags as dumped, also the root file
system and those whose source the runtime gives it by a key (criu/mount-v2.c, ``do_mount_root_v2`` and ``do_bind_mount_v2``), so
whether one may be written to is said by the image alone. Of the root file system that is true since CRIU 4.2; an older one leaves
it as the runtime mounted it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message
from nodeworker.domain.criu_images.tasks import image

IMAGE: Final = "mountpoints-{}.img"
FLAGS: Final = 5
READ_ONLY: Final = 1
"""MS_RDONLY (sys/mount.h)."""
ID: Final = 2
_SUPERBLOCK_FLAGS: Final = 17
_TMPFS: Final = 5
_NOTHING: Final = "/dev/null"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount; ``id`` and ``parent`` are those at the dump."""

    id: int
    parent: int
    place: str
    """Where it is mounted: an absolute path inside the container."""
    kind: int
    """CRIU's number of the file system's type (images/mnt.proto, ``fstype``)."""
    device: int
    root: str
    """What of the file system is mounted."""
    flags: int
    superblock_flags: int
    key: str | None
    """By which the runtime says what to mount there; None if CRIU makes it of what is in the image."""

    @property
    def read_only(self) -> bool:
        """Whether nobody can write through it."""
        return bool((self.flags | self.superblock_flags) & READ_ONLY)

    @property
    def is_empty(self) -> bool:
        """Whether it only covers what is below: how runtimes mask a directory, and a file."""
        return self.key == _NOTHING or (self.kind == _TMPFS and self.read_only and self.root == "/")


def read_mounts(images: Mapping[str, bytes], namespaces: Iterable[int]) -> list[Mount]:
    """Read the mounts of these mount namespaces, which are those of the processes.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    found: list[Mount] = []
    for namespace in namespaces:
        name = IMAGE.format(namespace)
        mounts = [_mount(one, name) for one in form.read_messages(image(images, name), form.MOUNTS, name)]
        if all(mount.place != "/" for mount in mounts):
            raise MalformedImageError(f"{name} has no root")
        found += mounts
    if len({mount.id for mount in found}) != len(found):
        raise MalformedImageError("a mount comes twice")
    return found


def read_only_places(mounts: Collection[Mount]) -> set[str]:
    """Return where every mount is read-only."""
    return {mount.place for mount in mounts} - {mount.place for mount in mounts if not mount.read_only}


def masked_places(mounts: Collection[Mount]) -> set[str]:
    """Return which paths are covered by something empty, on which nothing is mounted again."""
    places = {mount.place for mount in mounts}
    bare = {mount.place for mount in mounts if not mount.is_empty}
    return {
        place for place in places - bare if place != "/" and not any(other.startswith(f"{place}/") for other in places)
    }


def _mount(entry: Message, name: str) -> Mount:
    place, key = entry.text(7), entry.optional_text(18)
    if place != "/" and (not place.startswith("/") or not {"", ".", ".."}.isdisjoint(place[1:].split("/"))):
        raise MalformedImageError(f"{name} has a mount at {place[:200]!r}")
    superblock = entry.optional_uint32(_SUPERBLOCK_FLAGS)
    if superblock is None:
        raise MalformedImageError(f"{name} is of a CRIU before 2.0, which mixed the flags of mounts and file systems")
    if entry.boolean(13) and key is None:
        raise MalformedImageError(f"{name} is of a CRIU before 2.0, which kept the keys of mounts elsewhere")
    return Mount(
        id=entry.uint32(ID),
        parent=entry.uint32(4),
        place=place,
        kind=entry.uint32(1),
        device=entry.uint32(3),
        root=entry.text(6),
        flags=entry.uint32(FLAGS),
        superblock_flags=superblock,
        key=key,
    )
