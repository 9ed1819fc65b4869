"""Which files the processes of a snapshot hold open or have mapped on mounts from outside, and what CRIU compares of them.

Such files are not in the snapshot. CRIU opens them by their names and compares their mode and their size, but no size of a file that
is open for appending only (criu/files-reg.c, ``should_check_size``); of a program or library with a build ID it compares that as well.
``files.img`` has one entry for each open file and each mapped one, ``remap-fpath.img`` says which of them have no name any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.mounts import Mount, read_mounts
from nodeworker.domain.criu_images.protobuf import Message, data_field
from nodeworker.domain.criu_images.tasks import image

FILES: Final = "files.img"
_REMAPS: Final = "remap-fpath.img"
_MOUNTS: Final = "mountpoints-"
_REGULAR: Final = 1
_KIND_FIELD: Final = 1
_ID: Final = 2
_FILE: Final = 3
"""images/fdinfo.proto, ``file_entry``."""
_FLAGS, _NAME, _MOUNT, _SIZE, _MODE, _BUILD_ID = 2, 6, 7, 8, 10, 11
"""images/regfile.proto, ``reg_file_entry``."""
_ACCESS: Final = 0o3
_WRITE_ONLY: Final = 0o1
_APPEND: Final = 0o2000
_KIND: Final = 0o170000
_PLAIN: Final = 0o100000


@dataclass(frozen=True, slots=True)
class Held:
    """One file that is held, by all who hold it."""

    mount: str
    """Where its mount is, inside the container."""
    path: str
    """Below that; empty if it is mounted itself."""
    size_bytes: int | None
    """As CRIU is going to compare it; None if it does not."""
    writes: bool
    """Whether a descriptor may write to it. Mappings are not seen here."""
    appends: bool
    """Whether nobody does anything but append to it."""
    proven: bool
    """Whether CRIU knows its content again by a build ID."""


def held_files(images: Mapping[str, bytes], places: Collection[str]) -> list[Held]:
    """Return the files that are held on the mounts at these places, each once.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    mounts = _mounts(images, places)
    nameless = _nameless(images)
    found: dict[tuple[str, str], Held] = {}
    for entry in form.read_messages(image(images, FILES), form.FILES, FILES):
        if entry.uint32(_KIND_FIELD) != _REGULAR or entry.uint32(_ID) in nameless:
            continue
        if (held := _held(entry.message(_FILE, "a file"), mounts)) is not None:
            place = (held.mount, held.path)
            found[place] = held if (other := found.get(place)) is None else _both(other, held)
    return list(found.values())


def without_sizes(images: Mapping[str, bytes], files: Collection[tuple[str, str]]) -> dict[str, bytes]:
    """Let CRIU restore although these files, given by mount and path, have other sizes now; return the changed images.

    Raises:
        MalformedImageError: as :func:`held_files`.
    """
    mounts = _mounts(images, {mount for mount, _ in files})
    nameless = _nameless(images)

    def rewritten(entry: Message) -> bytes:
        if entry.uint32(_KIND_FIELD) != _REGULAR or entry.uint32(_ID) in nameless:
            return entry.raw
        file = entry.message(_FILE, "a file")
        held = _held(file, mounts)
        if held is None or held.size_bytes is None or (held.mount, held.path) not in files:
            return entry.raw
        return entry.rewritten({_FILE: data_field(_FILE, file.rewritten({_SIZE: b""}))})

    entries = form.read_messages(image(images, FILES), form.FILES, FILES)
    changed = form.write_messages([rewritten(entry) for entry in entries], form.FILES)
    return {FILES: changed} if changed != images[FILES] else {}


def _mounts(images: Mapping[str, bytes], places: Collection[str]) -> dict[int, Mount]:
    namespaces = (int(name[len(_MOUNTS) : -4]) for name in images if name.startswith(_MOUNTS))
    return {mount.id: mount for mount in read_mounts(images, sorted(namespaces)) if mount.place in places}


def _nameless(images: Mapping[str, bytes]) -> set[int]:
    if _REMAPS not in images:
        return set()
    return {entry.uint32(1) for entry in form.read_messages(images[_REMAPS], form.REMAPS, _REMAPS)}


def _held(file: Message, mounts: Mapping[int, Mount]) -> Held | None:
    mount = mounts.get(number) if (number := file.optional_sint32(_MOUNT)) is not None else None
    mode = file.optional_uint32(_MODE)
    if mount is None or (mode is not None and mode & _KIND not in {0, _PLAIN}):
        return None
    name, place = file.text(_NAME), mount.place.rstrip("/")
    if name != place and not name.startswith(f"{place}/"):
        return None
    flags = file.uint32(_FLAGS)
    access = flags & _ACCESS
    return Held(
        mount=mount.place,
        path=name[len(place) + 1 :],
        size_bytes=file.optional_uint64(_SIZE),
        writes=access != 0,
        appends=access == _WRITE_ONLY and bool(flags & _APPEND),
        proven=bool(file.uint32s(_BUILD_ID)),
    )


def _both(one: Held, other: Held) -> Held:
    sizes = [size for size in (one.size_bytes, other.size_bytes) if size is not None]
    return Held(
        mount=one.mount,
        path=one.path,
        size_bytes=sizes[0] if sizes else None,
        writes=one.writes or other.writes,
        appends=one.appends and other.appends,
        proven=one.proven or other.proven,
    )


def writers_first(files: Iterable[Held]) -> list[Held]:
    """Put first what matters most where not all can be kept."""
    return sorted(files, key=lambda held: (not held.writes, held.appends, held.mount, held.path))
