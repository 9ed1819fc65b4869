"""A tree of three processes joined by pipes: one counts, one squares, one writes what arrives to a file."""

import os
import sys
import time

path = sys.argv[1]
counted_read, counted_write = os.pipe()
squared_read, squared_write = os.pipe()

if os.fork() == 0:
    os.close(squared_write)
    with os.fdopen(squared_read) as source, open(path, "w", buffering=1) as sink:
        sink.writelines(source)
    os._exit(3)

if os.fork() == 0:
    with os.fdopen(counted_read) as source, os.fdopen(squared_write, "w", buffering=1) as sink:
        for line in source:
            sink.write(f"{int(line)} {int(line) ** 2}\n")
    os._exit(4)

with os.fdopen(counted_write, "w", buffering=1) as sink:
    number = 0
    while True:
        number += 1
        sink.write(f"{number}\n")
        time.sleep(0.02)
