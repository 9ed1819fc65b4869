"""A file that is written again and again, and watchdog, which counts how often it hears of that."""

import os
import time

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

os.makedirs("/watched", exist_ok=True)


class Count(FileSystemEventHandler):
    count = 0

    def on_closed(self, event):
        self.count += 1
        print(self.count, file=out)


with open("/out", "a", buffering=1) as out:
    observer = Observer()
    observer.schedule(Count(), "/watched")
    observer.start()
    while observer.is_alive():
        with open("/watched/file", "w") as file:
            file.write("again")
        time.sleep(0.05)
