"""Four threads take turns at counting, under a lock and a condition."""

import threading
import time

out = open("/out", "a", buffering=1)
turn = threading.Condition()
number = 0


def count(mine: int) -> None:
    global number
    while True:
        with turn:
            turn.wait_for(lambda: number % 4 == mine)
            number += 1
            print(number, file=out)
            turn.notify_all()
        time.sleep(0.01)


for each in range(4):
    threading.Thread(target=count, args=(each,)).start()
