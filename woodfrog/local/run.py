"""``woodfrog run``: one protected container from its bundle to its exit code, through the same OCI runtime that an engine calls.

It plays containerd's part: makes a bundle and a root filesystem, calls ``create`` and ``start``, carries the output,
passes the stop signal on, waits for the first process, and calls ``delete``. What makes a container go on happens in the
runtime and the worker, here as under any engine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from nodeworker.runtime import restore_process
from nodeworker.runtime.install import DEFAULT_VARIABLE
from nodeworker.threads import in_daemon_thread
from woodfrog import client
from woodfrog.dev_state import Description
from woodfrog.local import next_start, orphans, stopping
from woodfrog.local.command_errors import command_error
from woodfrog.local.console import Console
from woodfrog.local.interrupts import deferred, interruptible, uninterrupted
from woodfrog.local.kept_layers import LAYERS, Layers, offer
from woodfrog.local.oci_bundle import ContainerSpec, oci_config, write_config
from woodfrog.local.oci_runtime import STOP_SECONDS, VERB_SECONDS, Runtime, logged, runtime_failed
from woodfrog.local.overlay import ContainerDirectory
from woodfrog.local.pipes import Output
from woodfrog.output import Form
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId, SnapshotId
from woodfrog.protocol.runtime_api import ContainerStatus, DeletedNotification
from woodfrog.service import libc

_CREATE_SECONDS = 1800.0
_TELL_SECONDS = 3.0
_SETTLE_SECONDS = 10.0
NOT_CAPTURED = 125
"""Exit code where Woodfrog itself failed: the container could not be started, or was stopped and not captured. Docker's is the same."""
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 2.0
_RUNTIME_LOG = "runtime.log"
_ENDED = frozenset({"container-gone", "ended-waiting"})
_NOTHING_TO_SAY = orphans.NOTHING_TO_CAPTURE | {"stop-ignored"}


class InterruptedCreateError(Exception):
    """A signal ended the creation of the container; nothing of it is left."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class SupervisedContainer:
    """One container from its bundle to its exit code."""

    def __init__(
        self,
        described: Description,
        key: CheckpointKey,
        spec: ContainerSpec,
        lower: Path,
        container_id: ContainerId,
        console: Console,
        form: Form = Form.TABLE,
        *,
        from_layer: str | None = None,
    ) -> None:
        self._described = described
        self._key = key
        self._spec = spec
        self._lower = lower
        self._form = form
        self.container_id = container_id
        self._console = console
        self._runtime = Runtime(described, self.container_id)
        self._creating: asyncio.subprocess.Process | None = None
        self._signals = 0
        self._unanswered: Failure | None = None
        """Why nobody has said yet whether there is a final snapshot."""
        self._not_captured = False
        self._captured = False
        self._why_not = ""
        self._ran = False
        self._layers = Layers(Path(described.state_dir) / LAYERS)
        self._from_layer = from_layer
        """The kept layer to start from, empty for the newest; None to start over an empty one."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._stopped_by = 0
        """The signal that came while the container was being created."""
        self._code: int | None = None
        """With which it ended."""

    def run(self) -> int:
        """Run the container; return its exit code, or 128 and the number of the signal that ended it.

        :data:`NOT_CAPTURED` if it was stopped here and nothing was captured of it.

        Raises:
            FailureError: when it cannot be created; nothing of it is left.
        """
        with interruptible():
            return self._run()

    def _run(self) -> int:
        orphans.clear(self._described)
        place = Path(self._described.containers) / self.container_id
        with ExitStack() as made:
            with deferred():
                directory = made.enter_context(self._directory(place))
                made.callback(self._keep_layer, directory)
            config = oci_config(
                self._spec,
                root=directory.root,
                network=directory.network,
                id_variable=DEFAULT_VARIABLE,
                checkpoint_id=self._key.id,
                cgroup=f"/woodfrog/{self.container_id}",
            )
            write_config(directory.path, config)
            # The container's processes become our children when the runtime that made them ends (prctl(2)).
            libc.process_option(libc.PR_SET_CHILD_SUBREAPER, 1)
            try:
                self._code = asyncio.run(self._live(directory.path))
            finally:
                with uninterrupted():
                    if self._code is not None:
                        self._tell_end(self._code)
                    self._runtime.delete()
                    restore_process.remove_cgroups(config["linux"]["cgroupsPath"])
        return NOT_CAPTURED if self._not_captured and self._signals == 1 else self._code

    def _directory(self, place: Path) -> ContainerDirectory:
        """Make the container's directory; a kept layer that is moved into it is kept again if that fails."""
        if self._from_layer is None:
            return ContainerDirectory.create(place, self._lower)

        def give_back(upper: Path) -> None:
            self._layers.keep(upper, self._key, self.container_id, self._lower, "it could not be created")

        return ContainerDirectory.create(place, self._lower, self._take_layer, give_back)

    def _take_layer(self, into: Path) -> None:
        taken = self._layers.take(self._key, self._from_layer or "", self._lower, into)
        self._say(
            "layer", f"starts over the layer of container {taken.layer}, which ended without a snapshot: {taken.why}"
        )

    def _keep_layer(self, directory: ContainerDirectory) -> None:
        """Keep what the container wrote, unless it was captured or its program has ended well by itself."""
        with uninterrupted():
            self._keep(directory, self._code)

    def _keep(self, directory: ContainerDirectory, code: int | None) -> None:
        done = code == 0 and not self._signals
        used = self._ran or self._from_layer is not None
        if self._captured or done or not used:
            return
        why = self._why_not or (f"it ended with exit code {code}" if code is not None else "it could not be created")
        try:
            directory.unmount()
            over = self._layers.keep(directory.upper, self._key, self.container_id, self._lower, why)
        except OSError as problem:
            self._say("layer", f"warning: the container's layer could not be kept: {problem}")
            return
        if over is None:
            return
        self._say(
            "layer",
            f"the container's files are kept: `woodfrog run --id {self._key.id} --from-layer newest` starts from them",
        )
        for each in over:
            self._say("layer", f"the older layer {each.layer} of {each.id} was removed to make room")

    async def _live(self, bundle: Path) -> int:
        loop = asyncio.get_running_loop()
        output = Output(self._console.stdout, self._console.stderr)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_stop, number)
        try:
            try:
                init = await self._create(bundle, output)
            except InterruptedCreateError as problem:
                return 128 + problem.number
            gone = asyncio.Event()
            watched = os.pidfd_open(init)
            loop.add_reader(watched, gone.set)
            try:
                self._console.created()
                await self._call("start", self.container_id)
                self._ran = True
                told = asyncio.create_task(asyncio.to_thread(self._tell_start, bundle / _RUNTIME_LOG))
                await gone.wait()
                await told
            finally:
                loop.remove_reader(watched)
                os.close(watched)
            if self._signals > 1:
                for task in self._stopping:  # killed: whoever still takes a dump takes it in vain
                    task.cancel()
            await asyncio.gather(*self._stopping, return_exceptions=True)
            _, status = os.waitpid(init, 0)  # noqa: ASYNC222 -- it has ended, so this does not wait
        finally:
            await asyncio.to_thread(output.finish)
        await asyncio.to_thread(self._tell_capture)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    async def _create(self, bundle: Path, output: Output) -> int:
        pid_file = bundle / "pid"
        log = bundle / _RUNTIME_LOG
        command = self._runtime.command(
            "create", "--bundle", bundle, "--pid-file", pid_file, self.container_id, log=log
        )
        # In a session of its own, so that a Ctrl-C reaches it through us only. It may take minutes, and must not outlive us: nobody
        # would start what it creates, and its start would stand in the way of others.
        self._creating = await asyncio.create_subprocess_exec(
            *command,
            stdin=output.stdin,
            stdout=output.stdout,
            stderr=output.stderr,
            start_new_session=True,
            preexec_fn=partial(libc.end_with_parent, os.getpid(), signal.SIGTERM),
        )
        output.handed_over()
        progress = asyncio.create_task(self._tell_progress())
        try:
            async with asyncio.timeout(_CREATE_SECONDS):
                code = await self._creating.wait()
        except TimeoutError:
            self._creating.terminate()
            code = await self._creating.wait()
            self._say("create-failed", f"the container was not created within {_CREATE_SECONDS:g} s")
        finally:
            progress.cancel()
        self._creating = None
        if self._stopped_by:
            raise InterruptedCreateError(self._stopped_by)
        if code != 0:
            words = " ".join(logged(log, "error"))
            cause = f"the container could not be created (exit code {code})"
            raise FailureError(
                command_error(words, self._spec.args[0]) or Failure("create-failed", cause, "See the error above.")
            )
        return int(pid_file.read_text())

    async def _call(self, verb: str, *words: str, seconds: float = VERB_SECONDS) -> None:
        command = self._runtime.command(verb, *words)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            async with asyncio.timeout(seconds):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise runtime_failed(command, process.returncode, said.decode(errors="replace"))

    async def _tell_progress(self) -> None:
        """Say what a start that takes a while is doing, whenever that changes."""
        said = ""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            doing = await asyncio.to_thread(self._doing)
            if doing not in {"", said}:
                said = doing
                self._say("creating", said)

    def _doing(self) -> str:
        try:
            found = client.containers(self._described.socket, seconds=_TELL_SECONDS)
        except FailureError as problem:
            return f"{problem.failure.cause}. {problem.failure.advice}"
        return next((each.doing for each in found if each.container_id == self.container_id), "")

    def _begin_stop(self, number: int) -> None:
        self._stopping.add(asyncio.get_running_loop().create_task(self._stop(number)))

    async def _stop(self, number: int) -> None:
        """The first signal asks for the final dump, the second ends the container at once; one that is being created just ends."""
        if self._creating is not None:
            self._stopped_by = number
            with suppress(ProcessLookupError):
                self._creating.terminate()
            return
        self._signals += 1
        name = "TERM" if self._signals == 1 else "KILL"
        if self._signals == 1:
            self._say("stopping", "stopping; the final snapshot is being taken (once more to kill)")
            # A daemon thread: a worker that does not answer must not keep us when the container is killed.
            failure = await in_daemon_thread(lambda: stopping.capture(self._described, self.container_id))
            if not isinstance(failure, Failure) or self._signals > 1:
                return
            if failure.code == "worker-away":
                # The runtime asks once more, and may find it.
                self._unanswered = failure
                words = "the node worker does not answer; the container gets the stop signal (once more to kill)"
                self._say("stopping", words)
            elif failure.code not in _NOTHING_TO_SAY:
                await asyncio.to_thread(self._tell_refusal, failure)
                if failure.code in _ENDED:
                    return
        try:
            await self._call("kill", self.container_id, name, seconds=STOP_SECONDS)
        except FailureError as problem:
            self._say("stop-failed", problem.failure.cause)

    def _status(self) -> ContainerStatus | None:
        with suppress(FailureError):
            for container in client.containers(self._described.socket, seconds=_TELL_SECONDS):
                if container.container_id == self.container_id:
                    return container
        return None

    def _tell_start(self, runtime_log: Path) -> None:
        """Say how it started, and why; nothing of it delays the container."""
        self._say_start(runtime_log)
        self._console.started()

    def _say_start(self, runtime_log: Path) -> None:
        status = self._status()
        if status is None:  # of a container that is not protected the runtime alone knows
            unprotected = next(iter(logged(runtime_log, "warning")), None)
            self._say("started", unprotected or f"how it started is not known; see `woodfrog why {self._key.id}`")
            return
        lines = next_start.after_start(self._key.id, status.reason, status.restored_from, status.left, status.warnings)
        for line in lines:
            self._say("started", line, snapshot_id=status.restored_from)
        kept = self._layers.of(self._key)
        if kept and self._from_layer is None:
            self._say("layer", offer(kept))

    def _tell_capture(self) -> None:
        """Say what it was captured as, and what the next start resumes from; wait a moment for it to be stored."""
        status = self._status()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while status is not None and status.state == "dumping" and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)  # its processes are dead, and whoever stopped it is about to write down as what
            status = self._status()
        if status is None or status.captured_as is None:
            if self._unanswered is not None:
                words = next_start.after_refusal(self._key.id, str(self._unanswered), self._latest())
                self._say("not-captured", words)
                self._not_captured, self._why_not = True, str(self._unanswered)
            return
        snapshot_id = status.captured_as
        self._captured = True
        words = stopping.after_capture(self._described, self._key, snapshot_id)
        self._say("captured", words, snapshot_id=snapshot_id)

    def _tell_refusal(self, failure: Failure) -> None:
        """Say why there is no final snapshot; the container gets its stop signal all the same, and may take its time."""
        self._not_captured, self._why_not = True, str(failure)
        words = next_start.after_refusal(self._key.id, str(failure), self._latest())
        then = "" if failure.code in _ENDED else "; the container gets the stop signal (once more to kill)"
        self._say("not-captured", f"{words}{then}")

    def _latest(self) -> list[dict[str, Any]]:
        with suppress(FailureError):
            return client.view(self._described.reach, "latest_snapshots", self._key, seconds=_TELL_SECONDS)
        return []

    def _say(self, event: str, words: str, snapshot_id: SnapshotId | None = None) -> None:
        """Tell the user; on a terminal on standard error, because standard output is the container's."""
        line = f"woodfrog: {words}"
        if self._form is Form.JSON:
            told = {"event": event, "container_id": self.container_id, "snapshot_id": snapshot_id, "message": words}
            line = msgspec.json.encode(told).decode()
        self._console.say(line)

    def _tell_end(self, code: int) -> None:
        with suppress(FailureError):
            told = DeletedNotification(container_id=self.container_id, exit_code=code)
            client.worker(self._described.socket, told, seconds=_TELL_SECONDS)
