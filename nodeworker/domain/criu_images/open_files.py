"""Which processes of a snapshot will write to a mount: to such a one CRIU cannot bring them back once it is read-only.

CRIU reopens every file with the flags that it had, also those of shared mappings, and binds every named socket again
(criu/files-reg.c, ``open_filemap``; criu/sk-unix.c, ``bind_unix_sk``); on a read-only mount the kernel refuses that, and a mount to
which a file is open for writing is not made read-only. Files are in ``files.img``, the descriptors of a process in
``fdinfo-ID.img``, its mappings in ``mm-PID.img``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.mounts import Mount
from nodeworker.domain.criu_images.protobuf import Message
from nodeworker.domain.criu_images.tasks import Task, image

FILES: Final = "files.img"
_FDINFO: Final = "fdinfo-{}.img"
_MM: Final = "mm-{}.img"
_REGULAR: Final = 1
_UNIX_SOCKET: Final = 5
_ACCESS: Final = 0o3
"""O_ACCMODE: anything but O_RDONLY writes."""
_KIND: Final = 0o170000
_PLAIN: Final = 0o100000
"""S_IFMT and S_IFREG: a device or a FIFO may be written to also where the mount is read-only (inode(7), mount(8))."""
_MAPS_A_FILE: Final = 0o300
"""VMA_FILE_PRIVATE and VMA_FILE_SHARED (criu/include/image.h)."""
_SHARED: Final = 0o200
_PROT_WRITE: Final = 2


@dataclass(frozen=True, slots=True)
class Writer:
    """One process that holds one file."""

    pid: int
    """Inside the snapshot's PID namespace."""
    path: str


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    mount: int | None
    writes: bool


def writers(
    images: Mapping[str, bytes], tasks: Collection[Task], mounts: Collection[Mount], ids: set[int]
) -> list[Writer]:
    """Return who holds files of the mounts with these ``ids`` open for writing, maps them so, or has sockets there.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    entries = form.read_messages(image(images, FILES), form.FILES, FILES)
    files = {
        entry.uint32(2): file
        for entry in entries
        if (file := _file(entry)) is not None and _mount_of(file, mounts) in ids
    }
    if not files:
        return []
    found = [Writer(task.pid, path) for task in tasks for path in _open(images, task, files)]
    return list(dict.fromkeys(found))


def opened_below(images: Mapping[str, bytes], places: Collection[str]) -> list[str]:
    """Return which files below these places a process has open, is in, or maps.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    if not places:
        return []
    below = tuple(f"{place}/" for place in places)
    entries = (
        entry for entry in form.read_messages(image(images, FILES), form.FILES, FILES) if entry.uint32(1) == _REGULAR
    )
    paths = {entry.message(3, "a file").text(6) for entry in entries}
    return sorted(path for path in paths if f"{path}/".startswith(below))


def _open(images: Mapping[str, bytes], task: Task, files: Mapping[int, _File]) -> Iterator[str]:
    name = _FDINFO.format(task.files_id)
    for descriptor in form.read_messages(image(images, name), form.FDINFO, name):
        file = files.get(descriptor.uint32(1))
        if file is not None and file.writes:
            yield file.path
    name = _MM.format(task.pid)
    for mapping in form.read_message(image(images, name), form.MM, name).messages(
        14, f"a mapping of process {task.pid}"
    ):
        status = mapping.uint32(7)
        if status & _MAPS_A_FILE and (file := files.get(mapping.uint64(4))) is not None:
            flags = mapping.optional_uint32(10)
            writes = status & _SHARED and mapping.uint32(5) & _PROT_WRITE if flags is None else flags & _ACCESS
            if writes:
                yield file.path


def _file(entry: Message) -> _File | None:
    kind = entry.uint32(1)
    if kind == _REGULAR:
        file = entry.message(3, "a file")
        mode = file.optional_uint32(10)
        if mode is not None and mode & _KIND and mode & _KIND != _PLAIN:
            return None
        return _File(file.text(6), file.optional_sint32(7), bool(file.uint32(2) & _ACCESS))
    if kind == _UNIX_SOCKET:
        socket = entry.message(16, "a socket")
        name = socket.data(11).rstrip(b"\0").decode("utf-8", "surrogateescape")
        if name and not name.startswith("\0"):
            folder = socket.optional_text(14)
            return _File(name if folder is None else f"{folder}/{name}", socket.optional_sint32(17), writes=True)
    return None


def _mount_of(file: _File, mounts: Collection[Mount]) -> int | None:
    """Return the mount of a file: the one that the image names, or else the one below which its path is."""
    if file.mount is not None and file.mount >= 0:
        return file.mount
    above = [mount for mount in mounts if f"{file.path}/".startswith(f"{mount.place.rstrip('/')}/")]
    return max(above, key=lambda mount: len(mount.place)).id if above else None
