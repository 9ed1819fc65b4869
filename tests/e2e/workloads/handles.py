"""Holds one of each thing that the kernel keeps for a program, and says of each on /look whether it is still what it was."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
SIGNALFD, TIMERFD_CREATE, TIMERFD_SETTIME, TIMERFD_GETTIME = 289, 283, 286, 287
PRIVATE, MINE = 0, 0o600
F_ADD_SEALS, F_GET_SEALS, SEALS = 1033, 1034, 0x000E


def checked(result: int) -> int:
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


counter = os.eventfd(5, os.EFD_NONBLOCK)
watch = select.epoll()
watch.register(
    counter,
    select.EPOLLIN,
)

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
pending = checked(libc.syscall(SIGNALFD, -1, struct.pack("Q", 1 << (signal.SIGUSR1 - 1)), 8, 0))
os.kill(os.getpid(), signal.SIGUSR1)

once = checked(libc.syscall(TIMERFD_CREATE, 1, 0))
checked(libc.syscall(TIMERFD_SETTIME, once, 0, struct.pack("qqqq", 0, 0, 100_000, 0), None))
ticks = [0]
signal.signal(signal.SIGALRM, lambda *_: ticks.__setitem__(0, ticks[0] + 1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

memory = os.memfd_create("kept", os.MFD_ALLOW_SEALING)
os.write(memory, b"in memory")
fcntl.fcntl(memory, F_ADD_SEALS, SEALS)
both = mmap.mmap(-1, 4096)
child = os.fork()
if child == 0:
    while True:
        both[0:8] = (int.from_bytes(both[0:8], "little") + 1).to_bytes(8, "little")
        time.sleep(0.01)
of_child = os.pidfd_open(child)

segment = checked(libc.shmget(PRIVATE, 4096, 0o1600))
shared = libc.shmat(segment, None, 0)
ctypes.memmove(shared, b"segment", 8)
semaphore = checked(libc.semget(PRIVATE, 1, 0o1600))
checked(libc.semctl(semaphore, 0, 16, 3))
queue = checked(libc.msgget(PRIVATE, 0o1600))
message = struct.pack("q8s", 7, b"message")
checked(libc.msgsnd(queue, message, 8, 0))


def received() -> bytes:
    buffer = ctypes.create_string_buffer(16)
    checked(libc.msgrcv(queue, buffer, 8, 7, 0o4000))
    return buffer.raw[8:15]


def remaining() -> int:
    buffer = ctypes.create_string_buffer(32)
    checked(libc.syscall(TIMERFD_GETTIME, once, buffer))
    return int(struct.unpack("qqqq", buffer.raw)[2])


def goes_on(value: Callable[[], int]) -> bool:
    before = value()
    time.sleep(0.5)
    return value() > before


def ends() -> bool:
    signal.pidfd_send_signal(of_child, signal.SIGKILL)
    return os.waitpid(child, 0) == (child, signal.SIGKILL)


CHECKS: dict[str, Callable[[], bool]] = {
    "epoll": lambda: watch.poll(1) == [(counter, select.EPOLLIN)],
    "eventfd": lambda: os.eventfd_read(counter) == 5,
    "signalfd": lambda: struct.unpack_from("I", os.read(pending, 128))[0] == signal.SIGUSR1,
    "timerfd": lambda: 0 < remaining() <= 100_000,
    "interval timer": lambda: goes_on(lambda: ticks[0]),
    "memfd": lambda: os.pread(memory, 99, 0) == b"in memory" and fcntl.fcntl(memory, F_GET_SEALS) == SEALS,
    "shared memory": lambda: goes_on(lambda: int.from_bytes(both[0:8], "little")),
    "pidfd": ends,
    "SysV shared memory": lambda: ctypes.string_at(shared) == b"segment",
    "SysV semaphore": lambda: libc.semctl(semaphore, 0, 12) == 3,
    "SysV message queue": lambda: received() == b"message",
}

count = 0
while not Path("/look").exists():
    count += 1
    with open("/count", "a") as file:
        file.write(f"{count}\n")
    time.sleep(0.05)
for name, check in CHECKS.items():
    try:
        said = "ok" if check() else "differs"
    except (OSError, AssertionError) as problem:
        said = repr(problem)
    with open("/said", "a") as file:
        file.write(f"{name}: {said}\n")
time.sleep(1e6)
