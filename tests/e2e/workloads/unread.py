"""One process makes a file every so often, another is told by the kernel of each and notes its name; every so often it looks, or never.

Arguments: the seconds between two looks, or ``never``. ``/made`` has the names of the files, ``/seen`` those that were told.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from pathlib import Path

IN_CREATE = 0x100
HEADER = struct.Struct("iIII")

libc = ctypes.CDLL(None, use_errno=True)
Path("/watched").mkdir()
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, b"/watched", IN_CREATE) > 0


def note(file: str, name: str) -> None:
    with open(file, "a", encoding="ascii") as lines:
        lines.write(f"{name}\n")


if os.fork() == 0:
    number = 0
    while True:
        number += 1
        Path(f"/watched/{number}").touch()
        note("/made", str(number))
        time.sleep(0.25)

if sys.argv[1] == "never":
    while True:
        time.sleep(1)
while True:
    time.sleep(float(sys.argv[1]))
    try:
        told = os.read(watch, 1 << 16)
    except BlockingIOError:
        continue
    while told:
        _, _, _, length = HEADER.unpack_from(told)
        note("/seen", told[HEADER.size : HEADER.size + length].rstrip(b"\0").decode())
        told = told[HEADER.size + length :]
