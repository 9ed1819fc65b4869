"""Who installs or uninstalls is alone, whoever takes the lock away at the end."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from nodeworker.host.install import _alone
from nodeworker.host.paths import Places


def test_whoever_waited_for_a_lock_that_is_taken_away_holds_the_one_that_all_others_find(tmp_path: Path) -> None:
    places = Places(tmp_path)
    lock = tmp_path / "run" / "woodfrog-install.lock"
    inside, leave, alone = threading.Event(), threading.Event(), []

    def wait_and_look() -> None:
        with _alone(places):
            third = os.open(lock, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone.append(True)
            finally:
                os.close(third)

    def uninstall() -> None:
        with _alone(places, last=True):
            inside.set()
            leave.wait(20)

    first, second = threading.Thread(target=uninstall), threading.Thread(target=wait_and_look)
    first.start()
    assert inside.wait(20)
    second.start()
    while not _waits(lock):
        time.sleep(0.01)
    leave.set()
    first.join(20)
    second.join(20)
    assert alone == [True]


def _waits(lock: Path) -> bool:
    """Whether somebody waits for the lock, as /proc/locks shows by an arrow."""
    inode = str(lock.stat().st_ino)
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and line.split()[6].endswith(f":{inode}") for line in lines)
