"""Watches files and directories with inotify, and says on /look of which of them it still hears. With ``gone``: a deleted file, too."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
ALL = 0xFFF
PLACES = {
    "a directory of the layer": "/srv/w/own",
    "a file of the layer": "/srv/w/own/file",
    "a directory of the image": "/usr/share/doc",
    "the root": "/",
    "a directory of a volume": "/v",
    "a file of a volume": "/v/file",
    "shared memory": "/dev/shm",
}

Path("/srv/w/own").mkdir(parents=True)
for name in ("/srv/w/own/file", "/v/file"):
    Path(name).write_text("x")
watcher = libc.inotify_init1(os.O_NONBLOCK)
watched = {}
for what, place in PLACES.items():
    number = libc.inotify_add_watch(watcher, place.encode(), ALL)
    assert number > 0, what
    watched[what] = number
if sys.argv[1:] == ["gone"]:
    Path("/srv/w/gone").write_text("x")
    held = os.open("/srv/w/gone", os.O_RDONLY)
    assert libc.inotify_add_watch(watcher, b"/srv/w/gone", ALL) > 0
    Path("/srv/w/gone").unlink()


def heard() -> set[int]:
    numbers = set()
    try:
        while data := os.read(watcher, 1 << 16):
            at = 0
            while at < len(data):
                number, _, _, length = struct.unpack_from("iIII", data, at)
                numbers.add(number)
                at += 16 + length
    except BlockingIOError:
        return numbers
    return numbers


count = 0
while not Path("/look").exists():
    count += 1
    with open("/count", "a") as file:
        file.write(f"{count}\n")
    time.sleep(0.05)
for what, place in PLACES.items():
    heard()
    target = Path(place) / "fresh" if Path(place).is_dir() else Path(place)
    target.write_text("changed")
    with open("/said", "a") as file:
        file.write(f"{what}: {'heard' if watched[what] in heard() else 'not heard'}\n")
time.sleep(1e6)
