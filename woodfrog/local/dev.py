"""``woodfrog dev``: the whole of Woodfrog on one machine, for people who try it, develop on it or test against it.

Three child processes, started in the order in which they need one another: nats-server, control plane, node worker. Each
is started again when it dies, because each is built to go on where its last life ended. Stopping is the reverse.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from nodeworker.host.criu_bundle import find_criu
from nodeworker.runtime.install import write_runtime
from woodfrog import client
from woodfrog.dev_state import Description, StateDirectory
from woodfrog.local import page
from woodfrog.local.broker import STREAMS_BYTES, Broker
from woodfrog.local.console import say
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import NodeName
from woodfrog.service import libc
from woodfrog.service.backoff import Backoff
from woodfrog.service.lifecycle import until_signalled
from woodfrog.service.printable import printable

CLUSTER = "local"
NAMESPACE = "default"
NODE = NodeName("localhost")
_COPIES_SPARE_PERCENT = "1"
"""No kubelet evicts anybody here when the last tenth of the disk is taken."""
_STOP_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_SETTLED_SECONDS = 10.0
_LAST_BYTES = 16 << 10


class _Line(msgspec.Struct, frozen=True):
    """A line of a part's log."""

    event: str
    level: str
    error: str = ""


class Part:
    """One child process that is kept alive. ``on_start`` is told the pid of each of its lives."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        log: Path,
        on_start: Callable[[str, int], None],
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._on_start = on_start

    async def keep(self) -> None:
        """Run it, and run it again when it ends, until cancelled; then stop it and wait for its end."""
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            began = time.monotonic()
            code = await self._live()
            if time.monotonic() - began > _SETTLED_SECONDS:
                backoff.reset()
            why = await asyncio.to_thread(self._last_words)
            _say(f"{self.name} ended with {code}{why}; it is started again (its log: {self._log})")
            await backoff.sleep()

    def _last_words(self) -> str:
        """Return why it ended, if the last line of its log says so."""
        with suppress(OSError, IndexError, msgspec.DecodeError), self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            line = msgspec.json.decode(log.read().splitlines()[-1], type=_Line)
            return f": {printable(line.error or line.event)}" if line.level == "error" else ""
        return ""

    async def _live(self) -> int:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=partial(libc.end_with_parent, os.getpid(), signal.SIGTERM),
            )
        self._on_start(self.name, process.pid)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.shield(asyncio.wait_for(process.wait(), _STOP_SECONDS))
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def lay_runtime(state: StateDirectory) -> tuple[Path, Path]:
    """Write the OCI runtime of a state directory; return the runc and the CRIU that it uses.

    Raises:
        FailureError: ``runc-missing``, or why no CRIU can be used.
    """
    runc = shutil.which("runc")
    if runc is None:
        raise FailureError(Failure("runc-missing", "there is no runc on PATH", "Install Debian's package runc."))
    criu = find_criu().resolve()
    write_runtime(
        state.runtime,
        run_dir=state.run,
        runc=Path(runc),
        criu=criu,
        python=Path(sys.executable),
        worker_wait_seconds=float(os.environ.get("WOODFROG_WORKER_WAIT_SECONDS", "30")),
    )
    return Path(runc), criu


def refuse_others_than_root() -> None:
    """Refuse to go on as another user than root.

    Raises:
        FailureError: ``not-root``.
    """
    if os.geteuid() != 0:
        raise FailureError(
            Failure(
                "not-root", "dumping and restoring containers takes root", "Run this as root, for instance by sudo."
            )
        )


class Stack:
    """The parts of one state directory."""

    def __init__(self, state: StateDirectory, store: Path | None, settings: Mapping[str, str]) -> None:
        self._state = state
        self._settings = settings
        self._store = (store or state.store).absolute()
        command, url = Broker(state.nats).prepare()
        self.description = Description(
            state_dir=str(state.path),
            nats_url=url,
            socket=str(state.run / "worker.sock"),
            runtime=str(state.runtime),
            runc_root=str(state.run / "runc"),
            containers=str(state.path / "containers"),
            store=str(self._store),
            spool=str(state.worker / "spool"),
            database=str(state.database),
            cluster=CLUSTER,
            namespace=NAMESPACE,
        )
        self._nats_command = command

    def _environment(self) -> dict[str, str]:
        runc, criu = lay_runtime(self._state)
        return {
            "WOODFROG_COPIES_SPARE_PERCENT": _COPIES_SPARE_PERCENT,
            **os.environ,
            **self._settings,
            "WOODFROG_CLUSTER": CLUSTER,
            "WOODFROG_NAMESPACE": NAMESPACE,
            "WOODFROG_NODE": NODE,
            "WOODFROG_NATS_URL": self.description.nats_url,
            "WOODFROG_STREAMS_BYTES": STREAMS_BYTES,
            "WOODFROG_RECORD_DETAILS": "on",
            "WOODFROG_DATABASE_URL": f"sqlite+aiosqlite:///{self._state.database}",
            "WOODFROG_STATE_DIR": str(self._state.worker),
            "WOODFROG_RUN_DIR": str(self._state.run),
            "WOODFROG_STORE_URL": f"file://{self._store}",
            "WOODFROG_RUNC": str(runc),
            "WOODFROG_CRIU": str(criu),
        }

    def _started(self, name: str, pid: int) -> None:
        self.description = msgspec.structs.replace(self.description, pids={**self.description.pids, name: pid})
        self._state.describe(self.description)

    async def run(self, on_ready: Callable[[Description], None]) -> None:
        """Start everything, say when it is ready, and keep it alive until cancelled; then stop it in reverse.

        Raises:
            FailureError: ``not-ready`` when the parts do not come up in time.
        """
        environment = self._environment()
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        commands = {
            "nats": self._nats_command,
            "controlplane": [sys.executable, "-m", "controlplane"],
            "nodeworker": [sys.executable, "-m", "nodeworker"],
        }
        keeping: list[asyncio.Task[None]] = []
        try:
            for name, command in commands.items():
                part = Part(name, command, environment, self._state.logs / f"{name}.log", self._started)
                keeping.append(asyncio.create_task(part.keep(), name=name))
            await self._until_ready()
            on_ready(self.description)
            # Not gather: cancelled, it would cancel all at once, and stopping has an order.
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in reversed(keeping):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _until_ready(self) -> None:
        limit_seconds = float(os.environ.get("WOODFROG_READY_SECONDS", "180"))
        deadline = time.monotonic() + limit_seconds
        while True:
            try:
                nodes = await asyncio.to_thread(client.view, self.description.reach, "nodes", seconds=2.0)
                await asyncio.to_thread(client.containers, self.description.socket)
            except FailureError as problem:
                missing = problem.failure.cause
            else:
                if any(row["node"] == NODE and row["status"] == "ready" for row in nodes):
                    return
                missing = "the node worker has not registered"
            if time.monotonic() > deadline:
                advice = f"See the logs in {self._state.logs}."
                raise FailureError(Failure("not-ready", f"not ready after {limit_seconds:g} s: {missing}", advice))
            await asyncio.sleep(0.05)


def _say(text: str) -> None:
    say(f"woodfrog dev: {text}")


def serve(
    state: StateDirectory,
    store: Path | None,
    on_ready: Callable[[Description], None],
    page_address: str | None = None,
    *,
    page_actions: bool = False,
) -> None:
    """Run the stack until SIGTERM or Ctrl-C; with the page, if somebody says where.

    Raises:
        FailureError: ``not-root``; ``already-running`` when another ``woodfrog dev`` has the directory; or what keeps it
            from starting.
    """
    refuse_others_than_root()
    state.make()
    with state.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            cause = f"another `woodfrog dev` runs with the state directory {state.path}"
            raise FailureError(
                Failure("already-running", cause, "Use that one, or name another directory with --state-dir.")
            ) from problem
        settings = {} if page_address is None else page.environment(state, page_address, actions=page_actions)
        asyncio.run(until_signalled(Stack(state, store, settings).run(on_ready)))
