"""A moment in the middle of a dump at which the container's files are as the images need them: CRIU waits, we copy.

For an open file whose name was deleted while others remain, CRIU makes a name ``link_remap.N`` and writes it into its
images. A dump that leaves the processes alive removes these names again when it ends (``cr_dump_finish`` in criu/cr-dump.c,
which says that a post-dump script is where file systems are to be copied). So CRIU is told to run a script, which tells us
that the images are written and comes back when the files are copied.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_POLL_SECONDS: Final = 0.003
_Result = TypeVar("_Result")

# CRIU runs every script for every action, and those of a configuration file twice: the second time all is done already.
# /proc/PID/exe cannot be followed once the process is dead, be it a zombie or reaped.
_SCRIPT: Final = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
: >'{folder}/dumped'
while [ -e '{folder}/waiting' ]; do
    [ -e /proc/{pid}/exe ] || exit 1
    sleep 0.005
done
[ -e '{folder}/copied' ]
"""


class PostDumpHook:
    """One meeting of one dump, in a folder of its own on a file system that may hold programs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "post-dump"
        self._dumped = folder / "dumped"
        self._waiting = folder / "waiting"

    def config(self) -> str:
        """Prepare the meeting; answers the line for CRIU's configuration."""
        self._folder.mkdir(mode=0o700)
        self._script.write_text(_SCRIPT.format(folder=self._folder, pid=os.getpid()))
        self._script.chmod(0o700)
        self._waiting.touch()
        return f"action-script {self._script}\n"

    def hold(self, dump: Callable[[], None], copy: Callable[[], _Result]) -> _Result:
        """Run ``dump`` in a thread, and ``copy`` here while the dump waits for it; return what ``copy`` did.

        Raises:
            Whatever ``copy`` raised, or else ``dump``; both have ended then.
        """
        problems: list[BaseException] = []

        def run() -> None:
            try:
                dump()
            except BaseException as problem:  # noqa: BLE001 -- it is raised again below, in the caller's thread
                problems.append(problem)

        dumping = threading.Thread(target=run, name="dump")
        dumping.start()
        try:
            while dumping.is_alive() and not self._dumped.exists():
                time.sleep(_POLL_SECONDS)
            result = copy() if self._dumped.exists() else None
            self._waiting.rename(self._folder / "copied")
        finally:
            self._waiting.unlink(missing_ok=True)  # needs no room, however full the disk is
            dumping.join()
        if problems:
            raise problems[0]
        if result is None:
            raise RuntimeError("CRIU ended well without running its post-dump script")
        return result
