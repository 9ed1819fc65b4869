"""What every call for a protected container needs, whichever verb it is: its settings, runc, the worker, and somewhere to complain.

As lean as :mod:`nodeworker.runtime.slowpath`, of which it is a part: an engine waits while it is read.
"""

from __future__ import annotations

import os
import sys
import time

from nodeworker.runtime import children, worker_client
from nodeworker.runtime.commandline import Call
from nodeworker.runtime.container import Marker, State
from nodeworker.runtime.minimal_stdlib import json, suppress

_TELL_SECONDS = 2.0


class Settings:
    """What ``install.write_runtime`` wrote into the script."""

    def __init__(self, words: list[str]) -> None:
        self.run_dir, self.runc, self.criu, self.variable, wait_seconds, answer_seconds = words
        self.worker_wait_seconds = float(wait_seconds)
        self.answer_seconds = float(answer_seconds)
        self.socket = os.path.join(self.run_dir, "worker.sock")


class Verb:
    """One call for one container."""

    def __init__(self, settings: Settings, call: Call) -> None:
        self.settings = settings
        self.call = call
        self.id = call.container_id
        self.folder = os.path.join(settings.run_dir, "containers", self.id)
        self.child = 0

    def runc_instead(self) -> int:
        """Let runc do what was asked for, in our place."""
        return children.become([self.settings.runc, *self.call.arguments])

    def runc(self, arguments: list[str], marker: Marker | None = None) -> int:
        """Run runc, with the criu that was chosen first in its PATH, and return its exit code.

        With a marker, a later call knows whether this runc still runs after we were killed.
        """
        code = children.wait(self.begin_runc(arguments, marker))
        self.child = 0
        return code

    def begin_runc(self, arguments: list[str], marker: Marker | None = None) -> int:
        """Start runc as :meth:`runc` does, and return its pid."""
        path_first = os.path.dirname(self.settings.criu)
        self.child = children.spawn([self.settings.runc, *arguments], path_first=path_first)
        if marker is not None:
            marker.update(child=self.child, child_birth=children.birth(self.child))
        return self.child

    def state(self) -> State:
        """What runc knows of the container now."""
        return State(self.call.root, self.id)

    def say(self, level: str, message: str) -> None:
        """Write to runc's log file in the form that the engine asked for, and an error to standard error as well.

        Nothing comes of it where nobody reads that any more: whoever speaks has more to do, such as to undo what was begun.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.call.flag("log-format") == "json":
            line = json.dumps({"level": level, "msg": message, "time": now})
        else:
            line = f'time="{now}" level={level} msg={json.dumps(message)}'
        log = self.call.flag("log")
        if log:
            with suppress(OSError), open(log, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        if level == "error":
            with suppress(OSError):
                sys.stderr.write(f"{message}\n")
                sys.stderr.flush()

    def tell(self, what: str, *, noted: str = "") -> None:
        """Tell the worker. If it is not there, ``noted`` is left for it; without that, it finds out by itself."""
        request: worker_client.Answer = {"ask": what, "container_id": self.id}
        try:
            worker_client.ask(self.settings.socket, request, connect_seconds=0.0, answer_seconds=_TELL_SECONDS)
        except (worker_client.AbsentError, worker_client.BrokenError):  # it may have died before it took this in
            if noted:
                self.note(noted)

    def note(self, what: str) -> None:
        """Leave word, with the time, for the worker that comes: nodeworker/agent/absence.py reads it."""
        folder = os.path.join(self.settings.run_dir, "missed")
        with suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(os.path.join(folder, self.id), "a", encoding="utf-8") as file:
                file.write(f"{what}\t{time.time()}\n")
