"""The processes and threads of a snapshot, with the credentials that CRIU is going to give them.

``pstree.img`` says which processes there are and which threads each has; ``core-ID.img`` holds one thread, and of a process'
first thread also what the process has as a whole; ``ids-PID.img`` says which namespaces it is in. CRIU gives credentials to
every thread that goes on, and where an image lacks them the thread keeps those of CRIU itself, all of root's
(criu/cr-restore.c, ``rst_prep_creds``); the same is true of limits. So they must be there. Processes that are dead have none, and run no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message

PSTREE: Final = "pstree.img"
INVENTORY: Final = "inventory.img"
CORE: Final = "core-{}.img"
_IDS: Final = "ids-{}.img"

CORE_TC: Final = 3
CORE_THREAD: Final = 5
THREAD_CREDS: Final = 10
_THREAD_SECCOMP_MODE: Final = 11
_THREAD_SECCOMP_FILTER: Final = 12
TC_STATE: Final = 1
TC_RLIMITS: Final = 8
_TC_OLD_SECCOMP: Final = 11
TC_OOM_SCORE_ADJ: Final = 14
RLIMITS: Final = 1
RLIMIT_SOFT: Final = 1
RLIMIT_HARD: Final = 2
CAPABILITIES: Final = {"inheritable": 9, "permitted": 10, "effective": 11, "bounding": 12, "ambient": 19}
NO_NEW_PRIVS: Final = 18
_IDS_FIELDS: Final = {"pid": 5, "network": 6, "ipc": 7, "uts": 8, "mount": 9, "user": 10, "cgroup": 11, "time": 12}
_ALIVE: Final = frozenset({1, 3})
"""COMPEL_TASK_ALIVE and COMPEL_TASK_STOPPED (compel/include/uapi/task-state.h)."""
_DEAD: Final = frozenset({2, 6})
"""TASK_DEAD (criu/include/pid.h) and COMPEL_TASK_ZOMBIE."""
RESOURCES: Final = tuple(
    f"RLIMIT_{name}"
    for name in (
        [
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NPROC",
            "NOFILE",
            "MEMLOCK",
            "AS",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ]
    )
)
"""What is limited, by number (include/uapi/asm-generic/resource.h)."""
_IMAGES_VERSION: Final = 2
"""CRTOOLS_IMAGES_V1_1."""
_MOST_PIDS: Final = 1 << 22
"""PID_MAX_LIMIT (include/linux/threads.h)."""
WORDS: Final = 2
"""Of 32 bits each, which hold all capabilities (CR_CAP_SIZE)."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one thread may do. Capabilities are bits, as in /proc/PID/status."""

    uids: tuple[int, int, int, int]
    """Real, effective, saved, of the file system."""
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    secure_bits: int
    no_new_privs: bool
    lsm_profile: str | None
    """Of AppArmor or SELinux; None if it had none."""


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread; ids are those inside the snapshot's PID namespace."""

    id: int
    credentials: Credentials
    seccomp_mode: int
    """0: none, 1: strict, 2: filters (linux/seccomp.h)."""
    seccomp_filter: int | None
    """Which of seccomp.img's is the last."""


@dataclass(frozen=True, slots=True)
class Task:
    """One process that goes on."""

    pid: int
    threads: tuple[Thread, ...]
    rlimits: tuple[tuple[int, int], ...]
    """Soft and hard, in the order of :data:`RESOURCES`; 2**64 - 1 is no limit."""
    oom_score_adj: int
    files_id: int
    """Of its table of descriptors: ``fdinfo-ID.img``."""
    mount_namespace: int
    """``mountpoints-ID.img``."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All processes that go on."""

    tasks: tuple[Task, ...]
    shared_namespaces: frozenset[str]
    """In which of CRIU's own the first process is put, as the image says: ``pid``, ``mount`` …"""


def read_tree(images: Mapping[str, bytes]) -> Tree:
    """Read the processes of a snapshot.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    outside = _outside(images)
    entries = form.read_messages(image(images, PSTREE), form.PSTREE, PSTREE)
    tasks = []
    shared: frozenset[str] | None = None
    seen: set[int] = set()
    for entry in entries:
        pid = entry.uint32(1)
        core = read_core(images, pid)
        state = core.message(CORE_TC, f"the process {pid}").uint32(TC_STATE)
        if state not in _ALIVE | _DEAD:
            raise MalformedImageError(f"process {pid} is in the unknown state {state}")
        # CRIU writes no threads of a dead process, but whatever was in its memory.
        threads = entry.uint32s(5) if state in _ALIVE else (pid,)
        if threads[:1] != (pid,) or not seen.isdisjoint(threads) or len(set(threads)) != len(threads):
            raise MalformedImageError(f"{PSTREE} has a process or thread twice, or a process without its first thread")
        if (entry.uint32(2) == 0) != (entry is entries[0]):
            raise MalformedImageError(f"the first process of {PSTREE}, and no other, is to be without a parent")
        if not all(0 < number <= _MOST_PIDS for number in threads):
            raise MalformedImageError(f"{PSTREE} has an impossible process or thread id")
        seen |= set(threads)
        if state in _ALIVE:
            ids = _ids(images, pid)
            shared = _same(ids, outside) if shared is None else shared
            tasks.append(_task(images, pid, threads, core, ids))
    if not tasks or tasks[0].pid != entries[0].uint32(1) or shared is None:
        raise MalformedImageError("the first process is not alive")
    return Tree(tuple(tasks), shared)


def image(images: Mapping[str, bytes], name: str) -> bytes:
    """Return an image that must be there.

    Raises:
        MalformedImageError: it is missing.
    """
    try:
        return images[name]
    except KeyError:
        raise MalformedImageError(f"the snapshot has no {name}") from None


def read_core(images: Mapping[str, bytes], thread: int) -> Message:
    """Read the image of one thread.

    Raises:
        MalformedImageError: it is missing or not what CRIU writes.
    """
    name = CORE.format(thread)
    return form.read_message(image(images, name), form.CORE, name)


def capability_words(creds: Message, kind: str) -> tuple[int, ...]:
    """Return one set of capabilities as CRIU stores it."""
    words = creds.uint32s(CAPABILITIES[kind])
    if len(words) > WORDS:
        raise MalformedImageError(f"the {kind} capabilities of a thread have {len(words)} words")
    return words


def _outside(images: Mapping[str, bytes]) -> Message:
    """Read the namespaces of CRIU at the dump, with which those of the processes are compared."""
    inventory = form.read_message(image(images, INVENTORY), form.INVENTORY, INVENTORY)
    version = inventory.uint32(1)
    if version != _IMAGES_VERSION:
        raise MalformedImageError(f"the images are of the unknown version {version}")
    return inventory.message(3, "the inventory's namespaces")


def _ids(images: Mapping[str, bytes], pid: int) -> Message:
    """Read the namespaces of a process. Without the image CRIU leaves it in those of its parent, but always writes one."""
    name = _IDS.format(pid)
    return form.read_message(image(images, name), form.IDS, name)


def _same(ids: Message, outside: Message) -> frozenset[str]:
    """Compare as CRIU does (``get_clone_mask``), for which a namespace that is not named has the number 0."""
    return frozenset(
        kind
        for kind, number in _IDS_FIELDS.items()
        if (ids.optional_uint32(number) or 0) == (outside.optional_uint32(number) or 0)
    )


def _task(images: Mapping[str, bytes], pid: int, threads: tuple[int, ...], core: Message, ids: Message) -> Task:
    tc = core.message(CORE_TC, f"the process {pid}")
    if tc.optional_uint32(_TC_OLD_SECCOMP):
        raise MalformedImageError(f"the seccomp mode of process {pid} is in the form of CRIU before 3.9")
    limits = tuple(_rlimits(tc, pid))
    oom_score_adj = tc.optional_int32(TC_OOM_SCORE_ADJ)
    if len(limits) < len(RESOURCES) or oom_score_adj is None:
        raise MalformedImageError(f"process {pid} would keep limits of CRIU's own")
    return Task(
        pid,
        tuple(_thread(one, core if one == pid else read_core(images, one)) for one in threads),
        limits,
        oom_score_adj,
        ids.uint32(2),
        ids.uint32(_IDS_FIELDS["mount"]),
    )


def _rlimits(tc: Message, pid: int) -> Iterator[tuple[int, int]]:
    limits = tc.message(TC_RLIMITS, f"the limits of process {pid}")
    for one in limits.messages(RLIMITS, f"a limit of process {pid}"):
        yield one.uint64(RLIMIT_SOFT), one.uint64(RLIMIT_HARD)


def _thread(number: int, core: Message) -> Thread:
    thread = core.message(CORE_THREAD, f"thread {number}")
    return Thread(
        number,
        _credentials(thread.message(THREAD_CREDS, f"the credentials of thread {number}")),
        thread.optional_uint32(_THREAD_SECCOMP_MODE) or 0,
        thread.optional_uint32(_THREAD_SECCOMP_FILTER),
    )


def _credentials(creds: Message) -> Credentials:
    uid, gid, euid, egid, suid, sgid, fsuid, fsgid = (creds.uint32(number) for number in range(1, 9))
    sets = {kind: _bits(capability_words(creds, kind)) for kind in CAPABILITIES}
    return Credentials(
        uids=(uid, euid, suid, fsuid),
        gids=(gid, egid, sgid, fsgid),
        groups=creds.uint32s(14),
        inheritable=sets["inheritable"],
        permitted=sets["permitted"],
        effective=sets["effective"],
        bounding=sets["bounding"],
        ambient=sets["ambient"],
        secure_bits=creds.uint32(13),
        no_new_privs=bool(creds.optional_uint32(NO_NEW_PRIVS)),
        lsm_profile=creds.optional_text(15),
    )


def _bits(words: tuple[int, ...]) -> int:
    return sum(word << (32 * index) for index, word in enumerate(words))
