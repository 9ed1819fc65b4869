"""What CRIU dumps and cannot restore, or restores wrongly, mended in its images before they are restored.

Each of these is a snapshot that was taken without a complaint. They are mended at the restore and not at the dump, so that those
taken long ago are saved, too.

*A process in another time namespace than its parent's.* runc restores a container into a time namespace of its own, which CRIU
needs for the clocks, and a later ``runc exec`` does not enter it. What such a session leaves behind is adopted by the container's
first process, and CRIU cannot make a child in another time namespace ("Can't restore sub-task in NS"). It gets that of its parent.

*An external mount whose source was replaced.* Editors and ``sed -i`` rename a new file over the one that is mounted, and the mount
says "deleted" from then on. CRIU would make such a file where the new one lies. What is mounted is what the runtime gives, so it
does not matter what became of the old one.

*A periodic timerfd that has expired and was not read yet.* Its remaining time is 0, and to set a timer to 0 disarms it, so that
it never fires again. (CRIU, issue 3162.) It expires a nanosecond later instead.

*A Unix socket that comes before the one that it is connected to.* CRIU connects it to what it has read before, and looks once more
only where the other end is connected back (criu/sk-unix.c, ``try_resolve_unix_peer``). A connection that waits to be accepted is not,
nor is a socket that sends datagrams to a named one: "FATAL: Peer unresolved". Both are put in order. PyTorch's DataLoader and
Python's multiprocessing make such connections all the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field

_FILES: Final = "files.img"
_FIRST_IDS: Final = "ids-1.img"
_TIME_NAMESPACE: Final = 12
"""images/core.proto, ``task_kobj_ids_entry``."""
_DELETED: Final = 16
_EXTERNAL_KEY: Final = 18
"""images/mnt.proto, ``mnt_entry``."""
_TIMER: Final = 12
"""images/fdinfo.proto, ``file_entry``."""
_UNIX: Final = 16
"""images/fdinfo.proto, ``file_entry``."""
_INO, _PEER = 2, 8
"""images/sk-unix.proto, ``unix_sk_entry``."""
_TICKS, _SECONDS, _NANOSECONDS, _EVERY_SECONDS, _EVERY_NANOSECONDS = 5, 7, 8, 9, 10
"""images/timerfd.proto, ``timerfd_entry``."""


def repaired(images: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those images that have to be other ones, by their names.

    Raises:
        MalformedImageError: one is not what CRIU writes.
    """
    changed: dict[str, bytes] = {}
    first = images.get(_FIRST_IDS)
    time = None if first is None else form.read_message(first, form.IDS, _FIRST_IDS).optional_uint32(_TIME_NAMESPACE)
    for name in images:
        if time is not None and name.startswith("ids-"):
            ids = form.read_message(images[name], form.IDS, name)
            if ids.optional_uint32(_TIME_NAMESPACE) not in {None, time}:
                changed[name] = form.write_messages(
                    [ids.rewritten({_TIME_NAMESPACE: number_field(_TIME_NAMESPACE, time)})], form.IDS
                )
        elif name.startswith("mountpoints-"):
            mounts = form.read_messages(images[name], form.MOUNTS, name)
            if any(_is_replaced(mount) for mount in mounts):
                changed[name] = form.write_messages([_with_source(mount) for mount in mounts], form.MOUNTS)
    if _FILES in images:
        files = form.read_messages(images[_FILES], form.FILES, _FILES)
        ordered = _peers_first(files)
        if ordered != files or any(_is_disarmed(file) for file in files):
            changed[_FILES] = form.write_messages([_armed(file) for file in ordered], form.FILES)
    return changed


def _is_replaced(mount: Message) -> bool:
    return mount.boolean(_DELETED) and mount.optional_data(_EXTERNAL_KEY) is not None


def _with_source(mount: Message) -> bytes:
    return mount.rewritten({_DELETED: b""}) if _is_replaced(mount) else mount.raw


def _peers_first(files: Sequence[Message]) -> list[Message]:
    """Return the files with each Unix socket behind its peer; those that are connected to one another stay as they are."""
    sockets = {
        place: (socket.uint32(_INO), socket.optional_uint32(_PEER) or 0)
        for place, file in enumerate(files)
        if (socket := file.optional_message(_UNIX, "a Unix socket")) is not None
    }
    places = {ino: place for place, (ino, _) in sockets.items()}
    ordered: dict[int, Message] = {}
    for first in range(len(files)):
        behind: dict[int, Message] = {}
        place: int | None = first
        while place is not None and place not in ordered and place not in behind:
            behind[place] = files[place]
            ino, peer = sockets.get(place, (0, 0))
            place = places.get(peer)
            if place is not None and sockets[place][1] == ino:
                break
        ordered |= dict(reversed(behind.items()))
    return list(ordered.values())


def _timer(file: Message) -> Message | None:
    return file.optional_message(_TIMER, "a timerfd")


def _is_disarmed(file: Message) -> bool:
    timer = _timer(file)
    if timer is None or timer.uint64(_SECONDS) or timer.uint64(_NANOSECONDS):
        return False
    return timer.uint64(_TICKS) > 0 and bool(timer.uint64(_EVERY_SECONDS) or timer.uint64(_EVERY_NANOSECONDS))


def _armed(file: Message) -> bytes:
    timer = _timer(file)
    if timer is None or not _is_disarmed(file):
        return file.raw
    return file.rewritten({_TIMER: data_field(_TIMER, timer.rewritten({_NANOSECONDS: number_field(_NANOSECONDS, 1)}))})
