"""Counts under a POSIX semaphore that is kept open by its name, beside one that is open although its name is gone.

glibc makes a named semaphore under a name of its own, links it to the one asked for and removes the first: the mapping
holds a file of /dev/shm whose name was deleted while another remains.
"""

import ctypes
import mmap
import os
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
for call in (libc.sem_wait, libc.sem_post, libc.sem_close):
    call.argtypes = [ctypes.c_void_p]
value = ctypes.c_int()
libc.sem_getvalue.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]


def opened(name: bytes, first: int) -> int:
    semaphore = libc.sem_open(name, os.O_CREAT, 0o600, first)
    if not semaphore:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name.decode())
    return semaphore


kept = opened(b"/kept", 1)
gone = opened(b"/gone", 5)
libc.sem_unlink(b"/gone")
with open("/dev/shm/plain", "w+b") as file:
    file.truncate(mmap.PAGESIZE)
    shared = mmap.mmap(file.fileno(), mmap.PAGESIZE)

number = 0
with open(sys.argv[1], "a", buffering=1) as record:
    while True:
        number += 1
        libc.sem_wait(kept)
        libc.sem_getvalue(gone, ctypes.byref(value))
        shared[:8] = number.to_bytes(8, "little")
        # Who opens the semaphore by its name must meet the one that is held here.
        again = opened(b"/kept", 7)
        seen = ctypes.c_int()
        libc.sem_getvalue(again, ctypes.byref(seen))
        libc.sem_close(again)
        record.write(f"{number} {seen.value} {value.value} {int.from_bytes(shared[:8], 'little')}\n")
        libc.sem_post(kept)
        time.sleep(0.1)
