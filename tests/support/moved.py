"""A container that counts and answers questions, and the one that it is restored into."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from support.lone_runtime import Container, LoneRuntime, eventually
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.runtime_api import Refused
from woodfrog.service.procfs import status_fields

Spec = dict[str, Any]
Change = Callable[[Spec], None]

SAME: Final = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
)
"""The fields of /proc/PID/status that say who a process is and what it may do (proc_pid_status(5))."""
PROGRAM: Final = r"""
import ctypes, json, mmap, os, resource, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def error(call, *arguments):
    try:
        call(*arguments)
    except OSError as problem:
        return problem.errno
    return 0
def syscall(*arguments):
    return ctypes.get_errno() if libc.syscall(*arguments) < 0 else 0
counter = os.open("/data/count", os.O_WRONLY | os.O_CREAT)
exec(os.environ.get("FIRST", ""))
number = 0
while True:
    number += 1
    os.pwrite(counter, b"%8d" % number, 0)
    if os.path.exists("/data/question"):
        with open("/data/question") as file:
            answer = eval(file.read())
        os.unlink("/data/question")
        with open("/data/answer.new", "w") as file:
            json.dump(answer, file)
        os.rename("/data/answer.new", "/data/answer")
    time.sleep(0.02)
"""


class Moved:
    """A container, and after :meth:`move` the one that it was restored into."""

    def __init__(
        self, runtime: LoneRuntime, change: Change, *, first: str = "", owner: int = 0, **settings: Any
    ) -> None:
        """Run a container.

        ``first``: what the program does before it counts. ``owner``: of the directory in which it counts. ``settings``: for both containers.
        """
        self.runtime = runtime
        self.data = runtime.folder / "data"
        self.data.mkdir()
        os.chown(self.data, owner, owner)
        self._first, self._settings = first, settings
        self.old = runtime.container(spec=self._spec(change), **settings)
        self.old.counter = self.data / "count"
        (self.old.rootfs / "data").mkdir()
        runtime.worker(create=self.old.cold)
        self.old.run()
        self.container = self.old

    def _spec(self, change: Change) -> Change:
        def spec(config: Spec) -> None:
            config["process"]["args"] = ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM]
            config["process"]["env"].append(f"FIRST={self._first}")
            bind = {"destination": "/data", "type": "bind", "source": str(self.data), "options": ["bind", "rw"]}
            config["mounts"].append(bind)
            change(config)

        return spec

    def make(self, change: Change) -> Container:
        """Lay down another container with the same files."""
        made = self.runtime.container(on=self.old, spec=self._spec(change), **self._settings)
        made.counter = self.data / "count"
        return made

    def dump(self) -> Path:
        """Dump the container, which ends it."""
        images = self.old.dump()
        self.counted = self.old.count()
        assert self.counted > 1
        return images

    def restore(self, images: Path, change: Change) -> None:
        """Restore it into a new container and see that it counts on."""
        self.container = self.make(change)
        self.runtime.worker(create=lambda _ask: self.container.restored(images), restore_failed=_refused)
        assert self.container.create() == 0, self.container.said()
        assert self.old.count() == self.counted
        started = self.container.call("start", self.container.id)
        assert started.returncode == 0, started.stderr
        eventually(lambda: self.old.count() > self.counted + 2, "the restored container counts on")

    def move(self, change: Change) -> None:
        """Do both."""
        self.restore(self.dump(), change)

    def ask(self, question: str) -> Any:
        """Ask the program for the value of an expression."""
        answer = self.data / "answer"
        answer.unlink(missing_ok=True)
        (self.data / "question.new").write_text(question)
        (self.data / "question.new").chmod(0o666)
        (self.data / "question.new").rename(self.data / "question")
        eventually(answer.exists, f"the program answers {question}", 20)
        return json.loads(answer.read_text())

    @property
    def pid(self) -> int:
        """The first process, as the host sees it."""
        return self.container.state().pid

    def identities(self) -> list[dict[str, str | None]]:
        """Who each of its processes is, in the order of their pids inside."""
        fields = [status_fields(pid) for pid in self.container.state().freezer.pids()]
        ordered = sorted(fields, key=lambda each: int(each["NSpid"].split()[-1]))
        return [{name: each.get(name) for name in SAME} for each in ordered]


def _refused(ask: Any) -> Refused:
    """Let a restore that fails fail the creation, with what was said of it."""
    return Refused(Failure("restore-failed", ask.message, "See above."))
