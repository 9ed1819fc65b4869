"""Worker processes that share a semaphore, a lock and memory in /dev/shm, and keep one invariant between them.

Both workers add one to two counters in shared memory under one lock; the counters are equal whenever nobody holds it. A
restore that loses the memory, splits it in two or forgets who holds the lock breaks the equality or stops the count.
"""

import multiprocessing
import sys
import time
from multiprocessing import shared_memory


def work(name: str, lock: object, turns: object) -> None:
    memory = shared_memory.SharedMemory(name=name)
    cells = memory.buf.cast("q")
    while True:
        turns.acquire()
        with lock:
            cells[0] += 1
            time.sleep(0.001)
            cells[1] += 1


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    memory = shared_memory.SharedMemory(create=True, size=4096)
    lock, turns = multiprocessing.Lock(), multiprocessing.Semaphore(0)
    for _ in range(2):
        multiprocessing.Process(target=work, args=(memory.name, lock, turns), daemon=True).start()
    cells = memory.buf.cast("q")
    issued = 0
    with open(sys.argv[1], "w", buffering=1) as record:
        while True:
            turns.release()
            issued += 1
            with lock:
                left, right = cells[0], cells[1]
            record.write(f"{issued} {left} {right}\n")
            time.sleep(0.02)
