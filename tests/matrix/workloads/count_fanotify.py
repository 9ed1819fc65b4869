"""A file that is written again and again, and a group of fanotify that counts how often it hears of that; it needs no capability (Linux 5.13)."""

import ctypes
import os
import threading
import time

REPORT_FID, MARK_ADD, CLOSE_WRITE, EVENT_ON_CHILD = 0x200, 0x1, 0x8, 0x0800_0000
HERE = -100  # AT_FDCWD

libc = ctypes.CDLL(None, use_errno=True)
os.makedirs("/watched", exist_ok=True)
group = libc.fanotify_init(REPORT_FID, os.O_RDONLY)
assert group >= 0, os.strerror(ctypes.get_errno())
mask = ctypes.c_uint64(CLOSE_WRITE | EVENT_ON_CHILD)
assert libc.fanotify_mark(group, MARK_ADD, mask, HERE, b"/watched") == 0, os.strerror(ctypes.get_errno())


def write():
    while True:
        with open("/watched/file", "w") as file:
            file.write("again")
        time.sleep(0.05)


threading.Thread(target=write, daemon=True).start()
with open("/out", "a", buffering=1) as out:
    for count in range(1, 1_000_000):
        os.read(group, 4096)
        print(count, file=out)
