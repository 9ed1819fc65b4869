"""Ten kinds of programs. Each writes lines that begin with 1, 2, 3 … to a file of its own, and keeps its state where a restore could lose it."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

_WORKLOADS: Final = Path(__file__).parents[1] / "e2e/workloads"
RECORD: Final = "/record"
VOLUME: Final = "/v"


class Program(NamedTuple):
    """One kind."""

    kind: str
    command: tuple[str, ...]
    volume: bool = False
    """Whether a directory of the host is mounted at ``/v``."""


def _workload(name: str) -> tuple[str, ...]:
    return (sys.executable, "-c", (_WORKLOADS / f"{name}.py").read_text(), RECORD)


def _python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(text))


_MEMORY = """
    import hashlib, os, time
    memory, number, chain = bytearray(os.urandom(32 << 20)), 0, hashlib.sha256()
    whole = hashlib.sha256(memory).hexdigest()
    with open("/record", "w", buffering=1) as record:
        while True:
            number += 1
            assert number % 50 or hashlib.sha256(memory).hexdigest() == whole
            record.write(f"{number}\\n")
            time.sleep(0.05)
"""
_TIMER = """
    import ctypes, os, struct
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(1, 0)
    assert libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 50_000_000, 0, 50_000_000), None) == 0
    number = 0
    with open("/record", "w", buffering=1) as record:
        while True:
            os.read(fd, 8)
            number += 1
            record.write(f"{number}\\n")
"""
_SOCKETS = """
    import socket, time
    with socket.create_server(("127.0.0.1", 0)) as listener, open("/record", "w", buffering=1) as record:
        left, right = socket.socketpair()
        number = 0
        while True:
            left.send(str(number).encode())
            number = int(right.recv(32)) + 1
            record.write(f"{number}\\n")
            time.sleep(0.05)
"""
_LOOP = "i=0; while :; do i=$((i+1)); echo $i >>/record; sleep 0.05; done"
_CHILDREN = "i=0; while :; do i=$(expr $i + 1); echo $i | cat >>/record; sleep 0.05; done"
_READER = "i=0; while :; do i=$((i+1)); echo $i $(cat /v/said 2>/dev/null) >>/record; sleep 0.05; done"

PROGRAMS: Final = (
    Program("loop", ("sh", "-c", _LOOP)),
    Program("children", ("sh", "-c", _CHILDREN)),
    Program("memory", _python(_MEMORY)),
    Program("timer", _python(_TIMER)),
    Program("sockets", _python(_SOCKETS)),
    Program("threads", _workload("threads")),
    Program("pipes", _workload("pipes")),
    Program("shared", _workload("shared")),
    Program("semaphore", _workload("semaphore")),
    Program("volume", ("sh", "-c", _READER), volume=True),
)


def gap(lines: list[str]) -> str | None:
    """Say where a record does not count on by one, or ``None``."""
    for expected, line in enumerate(lines, 1):
        if line.split(" ", 1)[0] != str(expected):
            return f"line {expected} says {line[:40]!r}"
    return None
