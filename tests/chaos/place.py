"""Where a chaos run happens: what it can start, stop, harm and ask there.

``OneMachine`` is ``woodfrog dev`` with containers of real runc and CRIU; ``on_cluster.py`` has the other one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
from support.stack import Run, Stack, running, until

from woodfrog.protocol.events import AnyEvent, Event

from .programs import RECORD, VOLUME, Program

PARTS: Final = ("nodeworker", "controlplane", "nats")
_DISK: Final = "512m"


class Ended(NamedTuple):
    """How a stop ended."""

    captured: bool
    said: str
    snapshot_id: str | None = None
    """As what it was captured, if that was said."""


class Live(Protocol):
    """One running container."""

    @property
    def restored_from(self) -> str | None:
        """The snapshot that it continues from."""

    def record(self) -> list[str]:
        """The complete lines of its record."""

    def runs(self) -> bool:
        """Whether it is still there: a node that loses its power takes its containers along."""


class Place(Protocol):
    """Everything that a run does to the outside."""

    def start(self, name: str, program: Program) -> Live:
        """Start the next container of an id, and return when it runs.

        Raises:
            AssertionError: it does not run.
        """

    def stop(self, live: Live) -> Ended:
        """Stop a container as its engine would."""

    def crash(self, live: Live) -> None:
        """Kill a container's first process."""

    def checkpoint(self, name: str) -> bool:
        """Ask for a snapshot; say whether it was stored."""

    def newest_stored(self, name: str) -> str | None:
        """The snapshot of an id that was stored last."""

    def why(self, name: str) -> str:
        """What a person is shown about the last start."""

    def harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        """Harm by name; each returns what ends it."""

    def trouble(self, live: Live) -> str:
        """Do something to a container that its engine's users do; say what."""

    def log(self) -> list[tuple[AnyEvent, datetime]]:
        """Every event."""

    def healthy(self) -> bool:
        """Whether everything answers again."""


class OneMachine:
    """A whole Woodfrog in one directory, whose worker has a small disk of its own."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._troubles = 0

    def start(self, name: str, program: Program) -> Live:
        options: tuple[str, ...] = ()
        if program.volume:
            self._volume(name).mkdir(exist_ok=True)
            options = ("--mount", f"{self._volume(name)}:{VOLUME}")
        return _Lines(self._stack.run(name, *program.command, options=options))

    def stop(self, live: Live) -> Ended:
        assert isinstance(live, _Lines)
        _, _, said = live.run.stop(120)
        captured = re.search(r"captured as ([\w-]+)", said)
        return Ended(captured is not None, said.strip(), captured and captured[1])

    def crash(self, live: Live) -> None:
        assert isinstance(live, _Lines)
        os.kill(live.run.init_pid(), signal.SIGKILL)
        live.run.wait(60)

    def checkpoint(self, name: str) -> bool:
        return self._stack.cli("checkpoint", name, check=False, seconds=120).returncode == 0

    def newest_stored(self, name: str) -> str | None:
        stored = [event for event in self._stack.history(name) if event["type"] == "snapshot.stored"]
        return str(stored[-1]["data"]["snapshot_id"]) if stored else None

    def why(self, name: str) -> str:
        return self._stack.cli("why", name, check=False).stdout.strip()

    def harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        kills = {f"kill {part}": lambda part=part: self._kill(part) for part in PARTS}
        return {**kills, "pause nodeworker": self._pause, "fill the disk": self._fill, "lose the store": self._lose}

    def trouble(self, live: Live) -> str:
        assert isinstance(live, _Lines)
        self._troubles += 1
        if (volume := self._volume(live.run.id)).is_dir():
            fresh = volume / "fresh"
            fresh.write_text(str(self._troubles))
            fresh.rename(volume / "said")
            return "change the volume"
        container = live.run.container["container_id"]
        command = ["runc", "--root", self._stack.runc_root, "exec", "-d", container, "sleep", "20"]
        subprocess.run(command, check=False, timeout=30, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return "open an exec session"

    def log(self) -> list[tuple[AnyEvent, datetime]]:
        with sqlite3.connect(f"file:{self._folder}/s/log.db?mode=ro", uri=True) as database:
            rows = database.execute("SELECT data, occurred_at FROM events ORDER BY position").fetchall()
        found: list[tuple[AnyEvent, datetime]] = []
        for data, at in rows:
            with suppress(msgspec.ValidationError):
                found.append((msgspec.json.decode(data, type=Event), datetime.fromisoformat(str(at))))
        return found

    def healthy(self) -> bool:
        with suppress(OSError, ValueError, AssertionError, subprocess.TimeoutExpired):
            self._stack.containers()
            return self._stack.cli("get", "nodes", check=False, seconds=30).returncode == 0
        return False

    def _volume(self, name: str) -> Path:
        return self._folder / f"volume-{name}"

    def _kill(self, part: str) -> Callable[[], None]:
        before = self._stack.child(part)
        with suppress(ProcessLookupError):
            os.kill(before, signal.SIGKILL)
        return lambda: until(lambda: self._stack.child(part) != before, 60, saying=f"{part} is back")

    def _pause(self) -> Callable[[], None]:
        pid = self._stack.child("nodeworker")
        os.kill(pid, signal.SIGSTOP)

        def end() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return end

    def _fill(self) -> Callable[[], None]:
        hog = self._folder / "s/worker/hog"
        space = os.statvfs(hog.parent)
        with suppress(OSError), hog.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, space.f_bavail * space.f_frsize - (256 << 10)))
        return lambda: hog.unlink(missing_ok=True)

    def _lose(self) -> Callable[[], None]:
        away = self._stack.store.with_name("store-away")
        with suppress(OSError):
            self._stack.store.rename(away)

        def end() -> None:
            if away.exists():
                shutil.rmtree(self._stack.store, ignore_errors=True)
                away.rename(self._stack.store)

        return end


class _Lines:
    """A run as ``Live``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.restored_from: str | None = run.container["restored_from"]

    def record(self) -> list[str]:
        return self.run.lines(RECORD)

    def runs(self) -> bool:
        return self.run.process.poll() is None


@contextmanager
def one_machine(folder: Path) -> Iterator[Place]:
    """A stack that is started now; what it leaves is removed."""
    worker = folder / "s/worker"
    worker.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(worker)], check=True, timeout=10)
    try:
        with running(folder / "s", {"WOODFROG_REHEARSE": "first"}) as stack:
            yield OneMachine(stack, folder)
    finally:
        time.sleep(0.1)
        subprocess.run(["umount", "--lazy", str(worker)], check=False, capture_output=True, timeout=10)
