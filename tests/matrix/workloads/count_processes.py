"""A pool of processes adds up; queues and locks of multiprocessing between them. Argument: fork or spawn."""

import multiprocessing
import sys
import time


def successor(number):
    return number + 1


def carry(source, sink):
    while True:
        sink.put(source.get() + 1)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    source, sink = multiprocessing.Queue(), multiprocessing.Queue()
    multiprocessing.Process(target=carry, args=(source, sink), daemon=True).start()
    pool = multiprocessing.Pool(3)
    number = 0
    with open("/out", "a", buffering=1) as out:
        while True:
            if number % 2:
                (number,) = pool.map(successor, [number])
            else:
                source.put(number)
                number = sink.get()
            print(number, file=out)
            time.sleep(0.05)
