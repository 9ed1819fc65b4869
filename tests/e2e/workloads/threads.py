"""Several threads and a file that is open, and half-written, nearly all the time.

Each record is ``<number> <chain>\\n``, the chain a hash over everything before. It is written in two halves with a pause
between them, through one descriptor opened once: a lost offset, a repeated record or a forgotten half breaks the chain.
"""

import hashlib
import os
import sys
import threading
import time

path = sys.argv[1]
numbers: list[int] = [0]
wake = threading.Condition()
ticks = [0] * 4


def tick(which: int) -> None:
    while True:
        ticks[which] += 1
        with wake:
            wake.notify_all()
        time.sleep(0.01)


def write() -> None:
    chain = hashlib.sha256()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o640)
    while True:
        with wake:
            wake.wait(timeout=1)
        numbers[0] += 1
        chain.update(str(numbers[0]).encode())
        record = f"{numbers[0]} {chain.hexdigest()}\n".encode()
        os.write(descriptor, record[: len(record) // 2])
        time.sleep(0.01)
        os.write(descriptor, record[len(record) // 2 :])


for which in range(4):
    threading.Thread(target=tick, args=(which,), daemon=True).start()
threading.Thread(target=write, daemon=True).start()
threading.Event().wait()
