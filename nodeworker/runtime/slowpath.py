"""What the runtime does for protected containers: create, start, kill and delete, with the worker's word on each.

Starts once for every such call, in front of a container that waits, so it imports little and nothing that is installed:
messages are plain dictionaries (``woodfrog.protocol.runtime_api`` is their contract), and runc is spawned without ``subprocess``.

What must hold, whatever dies when: a ``create`` that fails or is interrupted leaves nothing behind; the marker is written
before anything else is, so that the engine's ``delete --force`` after a killed ``create`` finds the rest; no signal is
swallowed unless the worker said that the processes are dead; no container stays frozen.
"""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import os
import sys
import time

from nodeworker.runtime import children, nvidia, restore_process, seccomp, stop_signal, worker_client
from nodeworker.runtime import container as containers
from nodeworker.runtime.commandline import Call
from nodeworker.runtime.container import Marker
from nodeworker.runtime.invocation import Settings, Verb
from nodeworker.runtime.minimal_stdlib import json, signal, suppress

_TRIES = 20
_CHILD_GRACE_SECONDS = 30.0
_COLD_GRACE_SECONDS = 5.0
"""A cold start is a matter of a moment, and runc cleans up best after itself."""
_STOP_CONNECT_SECONDS = 2.0
_RELEASE_SECONDS = 60.0
_RESUME_SECONDS = 5.0


class RefusedError(Exception):
    """The container cannot be created; the message is for the user."""


class StoppedError(Exception):
    """A signal asked this call to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"interrupted by signal {number}")


class Create(Verb):
    """``create``: restored, cold, or refused, as the worker says."""

    work_path = ""
    """Where CRIU restores, once it does."""
    prepared = False
    """Whether nvidia-container-runtime has changed the bundle for a restore; it must not find its own work again."""

    def run(self) -> int:
        """Return the exit code."""
        bundle = os.path.abspath(self.call.bundle)
        try:
            spec = containers.read_json(os.path.join(bundle, "config.json"))
        except (OSError, ValueError):
            return self.runc_instead()
        checkpoint_id = containers.variable(spec, self.settings.variable)
        if checkpoint_id is None or not self.id or "/" in self.id or self.id in {".", ".."} or self.state().exists:
            return self.runc_instead()
        other = Marker.read(self.folder)
        if other is not None and self._is_alive_elsewhere(other):
            self.say(
                "error",
                f"container {self.id} runs under runc's root {other.text('root')}; the id of a protected container must be unique on its node",
            )
            return 1
        marker = Marker(self.folder, {"root": self.call.root, "bundle": bundle, "restored": ""})
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stop)
        try:
            marker.begin()
            code = self._create(marker, bundle, spec, checkpoint_id)
        except StoppedError as problem:
            self.say("error", f"creating the container was {problem}")
            code = 128 + problem.number
        except RefusedError as problem:
            self.say("error", str(problem))
            code = 1
        except (OSError, KeyError, ValueError) as problem:
            self.say("error", f"Woodfrog could not create the container: {problem!r}")
            code = 1
        if code != 0:
            _ignore_signals()
            self._undo(marker, spec)
        return code

    def _is_alive_elsewhere(self, other: Marker) -> bool:
        """Whether the marker is of another root's container, which runs: what is known of it here would be lost."""
        root = other.text("root")
        return os.path.realpath(root) != os.path.realpath(self.call.root) and containers.State(root, self.id).alive

    def _create(self, marker: Marker, bundle: str, spec: containers.Json, checkpoint_id: str) -> int:
        answer = self._insist(
            {
                "ask": "create",
                "container_id": self.id,
                "bundle": bundle,
                "runc_root": os.path.abspath(self.call.root),
                "checkpoint_id": checkpoint_id,
            }
        )
        for _ in range(_TRIES):
            kind = answer.get("answer")
            if kind == "refused":
                raise RefusedError(f"Woodfrog refuses to create the container: {_failure_text(answer)}")
            if kind == "cold":
                return self._cold(marker, bundle, spec, answer)
            if kind != "restore":
                raise RefusedError(f"the Woodfrog worker answered {kind!r} to create; update it or the runtime")
            problem = self._restore(marker, bundle, spec, answer)
            if problem is None:
                return 0
            self.say("warning", f"snapshot {answer.get('snapshot_id')} could not be restored: {problem}")
            answer = self._insist({"ask": "restore-failed", "container_id": self.id, "message": problem})
        raise RefusedError("the Woodfrog worker named one snapshot after the other, and none could be restored")

    def _insist(self, request: worker_client.Answer) -> worker_client.Answer:
        settings = self.settings
        try:
            return worker_client.insist(
                settings.socket,
                request,
                wait_seconds=settings.worker_wait_seconds,
                answer_seconds=settings.answer_seconds,
            )
        except worker_client.AbsentError as problem:
            raise RefusedError(
                f"the Woodfrog worker of this node was not there within {settings.worker_wait_seconds:g} s ({problem}). "
                "Starting cold could throw work away: start the worker, or take the variable "
                f"{settings.variable} from the container"
            ) from problem
        except worker_client.BrokenError as problem:
            raise RefusedError(f"the Woodfrog worker of this node gave no answer: {problem}. Read its log") from problem

    def _cold(self, marker: Marker, bundle: str, spec: containers.Json, answer: worker_client.Answer) -> int:
        self._reset(bundle, spec)
        if answer.get("unprotected"):
            self.say("warning", str(answer.get("reason")))
        further = seccomp.take_io_uring if answer.get("deny_io_uring") else None
        containers.adapt(bundle, str(answer["criu_config"]), further)
        marker.update(phase="creating", restored="", stopped_pids=[])
        code = self.runc(self.call.arguments, marker)
        if code == 0:
            marker.update(phase="created")
        return code

    def _restore(self, marker: Marker, bundle: str, spec: containers.Json, answer: worker_client.Answer) -> str | None:
        """Restore; on failure clean up and say why it failed."""
        self._reset(bundle, spec)
        if nvidia.is_chained(self.settings.runc) and (problem := self._prepare(bundle)) is not None:
            return problem
        containers.adapt(bundle, str(answer["criu_config"]))
        joined, names = ("", {}) if answer.get("names_set") else containers.names_to_set(spec)
        log, self.work_path = os.path.join(self.folder, "restore.log"), str(answer["work_path"])
        marker.update(
            phase="creating",
            restored=str(answer["snapshot_id"]),
            stopped_pids=answer.get("stopped_pids") or [],
            work_path=self.work_path,
        )
        arguments = self.call.restore(
            bundle=bundle,
            image_path=str(answer["image_path"]),
            work_path=self.work_path,
            log=log,
            lsm_profile=str(answer.get("lsm_profile") or ""),
        )
        # CRIU sets no groups of a process that had none (criu/pie/restorer.c): it would have the engine's.
        os.setgroups([])
        limit = answer.get("limit_seconds")
        code, killed = restore_process.wait(
            self.begin_runc(arguments, marker), limit if isinstance(limit, int | float) else 0.0
        )
        self.child = 0
        state = self.state()
        if code == 0 and state.alive:
            # CRIU has set the host name of the dump, also in a namespace that a whole pod shares.
            if names and not containers.set_names(joined or f"/proc/{state.pid}/ns/uts", names):
                self.say("warning", f"the host name could not be set back to {names.get('hostname')}")
            outside = state.outside()
            problem = (
                f"processes {_listed(outside)} are not in the container's cgroup {state.cgroup}" if outside else None
            )
            if problem is None and answer.get("unproved"):
                problem = self._unproved()
            if problem is None and answer.get("gpus"):
                problem = self._gpus_problem()
            if problem is not None:
                self._remove_container(log)
                return problem
            marker.update(phase="created")
            marker.write_resume(self.call.root, state)
            with suppress(FileNotFoundError):
                os.unlink(log)
            return None
        problem = killed or _last_error(log) or f"runc restore ended with exit code {code}"
        self._remove_container(log)
        if killed:
            restore_process.remove_leftovers(self.state().folder, _cgroup(spec), self.work_path)
        return problem

    def _reset(self, bundle: str, spec: containers.Json) -> None:
        """Make config.json what the engine gave us."""
        if self.prepared:
            path = os.path.join(bundle, "config.json")
            containers.write_whole(path, spec, os.stat(path).st_mode & 0o7777)
            self.prepared = False

    def _prepare(self, bundle: str) -> str | None:
        """Let nvidia-container-runtime give the bundle its devices; say why it cannot."""
        self.prepared = True
        log = os.path.join(self.folder, "prepare.log")
        code = nvidia.prepare(self.settings.runc, self.call.create(bundle=bundle, log=log), self.folder)
        problem = _last_error(log)
        with suppress(FileNotFoundError):
            os.unlink(log)
        if self.state().exists:
            self._remove_container(log)
            return "nvidia-container-runtime's config.toml names its low-level runtime by a path; name it runc"
        return None if code == 0 else problem or f"nvidia-container-runtime ended with exit code {code}"

    def _gpus_problem(self) -> str | None:
        """Let the worker bring the GPUs back while a failure can still lead to the next best snapshot; say why it cannot."""
        answer = self._insist({"ask": "gpus", "container_id": self.id})
        return None if answer.get("answer") == "done" else _failure_text(answer)

    def _unproved(self) -> str | None:
        """Ask whether every byte was proved meanwhile that the container was restored from; say what was not."""
        answer = self._insist({"ask": "proved", "container_id": self.id})
        return None if answer.get("answer") == "done" else _failure_text(answer)

    def _remove_container(self, log: str) -> None:
        self.state().detach_leftovers()
        self.runc(self.call.delete(log=log))
        pid_file = self.call.options.get("pid-file")
        for path in (log, pid_file):
            if path:
                with suppress(OSError):
                    os.unlink(path)

    def _undo(self, marker: Marker, spec: containers.Json) -> None:
        interrupted = self.child
        if interrupted and marker.text("restored"):
            restore_process.kill(interrupted)
        elif interrupted:
            children.end(interrupted, _COLD_GRACE_SECONDS)
        if marker.phase != "asking":
            self._remove_container(os.path.join(self.folder, "undo.log"))
            if interrupted:
                restore_process.remove_leftovers(self.state().folder, _cgroup(spec), self.work_path)
        self.tell("deleted", noted="never-ran")
        _remove_logs(self.folder)
        marker.remove()


class Start(Verb):
    """``start``: of a restored container, let its processes go on; of a cold one, runc's."""

    def run(self) -> int:
        """Return the exit code."""
        marker = _own_marker(self)
        if marker is None or marker.phase not in {"created", "starting"}:
            return self.runc_instead()
        if marker.text("restored"):
            state = self.state()
            if not state.alive:
                self.say("error", "cannot start a container that has stopped")
                return 1
            marker.update(phase="starting")
            stopped = state.resume(marker.stopped_pids, _RESUME_SECONDS)
            if stopped:
                self.say("error", f"processes {_listed(stopped)} of the restored container do not continue")
                return 1
        else:
            marker.update(phase="starting")
            code = self.runc(self.call.arguments)
            if code != 0:
                return code
        marker.update(phase="started")
        self.tell("started")
        return 0


class Kill(Verb):
    """``kill``: the stop signal asks for the final dump; every other signal is runc's business."""

    def run(self) -> int:
        """Return the exit code."""
        marker = _own_marker(self)
        state = self.state()
        if marker is None or not marker.let_go or not state.alive:
            return self.runc_instead()
        number = stop_signal.number(self.call.positional[1] if len(self.call.positional) > 1 else "TERM")
        if not stop_signal.is_meant(number, marker.text("bundle"), self.id):
            return self.runc_instead()
        try:
            answer = worker_client.ask(
                self.settings.socket,
                {"ask": "stop", "container_id": self.id},
                connect_seconds=_STOP_CONNECT_SECONDS,
                answer_seconds=self.settings.answer_seconds,
            )
        except worker_client.AbsentError as problem:
            reason = f"the Woodfrog worker of this node was not there ({problem})"
            self.note("stop")
        except worker_client.BrokenError as problem:
            reason = str(problem)
        else:
            if answer.get("answer") == "stopped":
                return 0
            reason = _failure_text(answer)
        self.say("warning", f"no final dump was taken, the signal is passed on: {reason}")
        state.release(self.id, _RELEASE_SECONDS)
        return self.runc_instead()


class Delete(Verb):
    """``delete``: runc's, then ours; after a ``create`` that was killed it removes what that left."""

    def run(self) -> int:
        """Return the exit code."""
        marker = _own_marker(self)
        if marker is None:
            return self.runc_instead()
        if marker.phase in {"asking", "creating"}:
            self._wait_for_orphan(marker)
            self.state().detach_leftovers()
            restore_process.detach_mounts(marker.text("work_path"))
        code = self.runc(self.call.arguments)
        if code == 0 or not self.state().exists:
            self.tell("deleted", noted="deleted" if marker.let_go else "never-ran")
            _remove_logs(self.folder)
            marker.remove()
        return code

    def _wait_for_orphan(self, marker: Marker) -> None:
        """A runc that outlived a killed ``create`` cleans up after itself best: give it time before it is killed."""
        child, birth = marker.data.get("child"), marker.text("child_birth")
        if not isinstance(child, int) or not birth:
            return
        deadline = time.monotonic() + _CHILD_GRACE_SECONDS
        while children.birth(child) == birth:
            if time.monotonic() >= deadline:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                return
            time.sleep(0.02)


def _remove_logs(folder: str) -> None:
    for name in ("restore.log", "undo.log", "prepare.log"):
        with suppress(OSError):
            os.unlink(os.path.join(folder, name))


def _cgroup(spec: containers.Json) -> str:
    return str(containers.part(spec, "linux").get("cgroupsPath") or "")


def _listed(pids: list[int]) -> str:
    return ", ".join(map(str, pids[:8])) + (", …" if len(pids) > 8 else "")


def _own_marker(verb: Verb) -> Marker | None:
    """The container's marker, if it is this container's: ids are unique only under one root of runc."""
    marker = Marker.read(verb.folder)
    if marker is None or os.path.realpath(marker.text("root")) != os.path.realpath(verb.call.root):
        return None
    return marker


def _failure_text(answer: worker_client.Answer) -> str:
    failure = containers.part(answer, "failure")
    return f"{failure.get('cause', 'no cause given')} ({failure.get('code', 'unknown')}). {failure.get('advice', '')}".strip()


def _last_error(log: str) -> str:
    """The last error in a log that runc wrote in its JSON form."""
    message = ""
    with suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, AttributeError):
                entry = json.loads(line)
                if entry.get("level") in {"error", "fatal"}:
                    message = str(entry.get("msg"))
    return message


def _stop(number: int, _frame: object) -> None:
    raise StoppedError(number)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


_VERBS: dict[str, type[Create | Start | Kill | Delete]] = {
    "create": Create,
    "start": Start,
    "kill": Kill,
    "delete": Delete,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one call: six words of settings, then the runtime's own arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    settings, call = Settings(words[:6]), Call(words[6:])
    verb = _VERBS.get(call.verb)
    if verb is None:
        return children.become([settings.runc, *call.arguments])
    return verb(settings, call).run()


def run() -> None:
    """Run one call and end the process at once: taking the interpreter apart takes 10 ms, and an engine waits for it."""
    try:
        code = main()
    finally:
        with suppress(OSError):
            sys.stderr.flush()
    os._exit(code)
