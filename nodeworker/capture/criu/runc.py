"""runc as the worker uses it: the only module here that knows its command line and its state.json.

State is read from the file that runc itself keeps (libcontainer/state_linux.go), because ``runc state`` costs a process
start and does not tell the cgroup. Everything that starts runc is bounded in time, and runs with a PATH in which ``criu``
is the one that was chosen: runc finds CRIU by PATH and by nothing else since 1.2.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from nodeworker.capture.criu import criu as criu_tool
from nodeworker.capture.criu import interrupted
from nodeworker.capture.criu.freezer import Freezer
from woodfrog.protocol.failures import Failure, FailureError

CRIU_CONFIG_ANNOTATION: Final = "org.criu.config"
_SHORT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class RuncState:
    """What runc knows of one container, read at one moment."""

    container_id: str
    root: Path
    """runc's ``--root``, under which the state lies."""
    pid: int
    """Of the container's first process, as the host sees it; may be gone if ``status`` is ``stopped``."""
    status: str
    """``created``, ``running``, ``paused`` or ``stopped``, as ``runc state`` names them."""
    bundle: Path
    rootfs: Path
    cgroup_paths: dict[str, str]
    annotations: dict[str, str]
    """Of the bundle at the time of ``create``, ``org.criu.config`` among them."""
    config: dict[str, Any] = field(repr=False)
    """libcontainer's configuration, the key ``config`` of state.json."""

    @property
    def freezer(self) -> Freezer:
        """The container's freezer.

        Raises:
            FailureError: ``no-freezer``.
        """
        return Freezer.of(self)

    @property
    def criu_config(self) -> Path | None:
        """The CRIU configuration file that this container's dumps read, or ``None``: then runc's own default holds."""
        named = self.annotations.get(CRIU_CONFIG_ANNOTATION)
        return Path(named) if named else None


class Runc:
    """One runc binary together with the CRIU that it shall use."""

    def __init__(self, binary: Path, criu: Path) -> None:
        if criu.name != "criu":
            raise ValueError(f"{criu}: runc finds CRIU by the name 'criu', so the file must be called that")
        self.binary = binary
        self.criu = criu

    def version(self) -> str:
        """Ask runc for its version, e.g. ``1.1.5+ds1``.

        Raises:
            FailureError: ``runc-missing`` when it does not run.
        """
        answer = self._run([str(self.binary), "--version"])
        return answer.stdout.split("\n", 1)[0].removeprefix("runc version ").strip()

    @cached_property
    def filters_calls(self) -> bool:
        """Whether it can apply seccomp profiles, which it may be built without."""
        with suppress(FailureError):
            return "libseccomp" in self._run([str(self.binary), "--version"]).stdout
        return False

    def state(self, root: Path, container_id: str) -> RuncState:
        """Read a container's state.

        Raises:
            FailureError: ``container-unknown`` when runc has no such container under ``root``.
        """
        path = root / container_id / "state.json"
        try:
            raw = json.loads(path.read_bytes())
        except (OSError, ValueError) as problem:
            raise FailureError(
                Failure(
                    code="container-unknown",
                    cause=f"runc knows no container {container_id} under {root}",
                    advice="It has ended or never existed: look at `woodfrog ps`.",
                    detail=str(problem),
                )
            ) from problem
        config = raw["config"]
        labels = dict(label.partition("=")[::2] for label in config.get("labels") or ())
        cgroup_paths = raw.get("cgroup_paths") or {}
        return RuncState(
            container_id=container_id,
            root=root,
            pid=raw["init_process_pid"],
            status=_status(path.parent, raw, cgroup_paths),
            bundle=Path(labels.pop("bundle", "")),
            rootfs=Path(config["rootfs"]),
            cgroup_paths=cgroup_paths,
            annotations=labels,
            config=config,
        )

    def is_alive(self, root: Path, container_id: str) -> bool:
        """Say whether the container exists and its first process has not ended."""
        with suppress(FailureError):
            return self.state(root, container_id).status != "stopped"
        return False

    def checkpoint(
        self,
        root: Path,
        container_id: str,
        *,
        image_path: Path,
        work_path: Path,
        leave_running: bool,
        stopped_pids: Collection[int] = (),
        timeout_seconds: float = 600.0,
    ) -> None:
        """Dump the container's processes into ``image_path``; logs go to ``work_path``. Both are created.

        A cgroup that was frozen before is frozen afterwards, also when the dump fails. Without ``leave_running`` the
        container is gone from runc's state when this returns. The caller has written CRIU's configuration to
        :attr:`RuncState.criu_config` before.

        ``stopped_pids``, as :func:`criu.stopped_pids` gave them before the freeze, must be told if the cgroup is frozen: on
        v1 a process that is stopped *and* frozen holds CRIU up for ever.

        Raises:
            FailureError: with CRIU's log explained, or ``dump-timeout``. After a timeout CRIU may hold the tasks for
                a little longer: :meth:`Freezer.release` waits for it.
        """
        for folder in (image_path, work_path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [
            *(str(self.binary), "--root", str(root), "checkpoint"),
            *("--image-path", str(image_path), "--work-path", str(work_path)),
            *("--ext-unix-sk", "--file-locks"),
            *(("--leave-running",) if leave_running else ()),
            container_id,
        ]
        state = self.state(root, container_id)
        with _unstopped(state.freezer, stopped_pids):
            self._checkpoint(command, work_path, timeout_seconds, state.pid)

    def _checkpoint(self, command: list[str], work_path: Path, timeout_seconds: float, first_pid: int) -> None:
        said = work_path / "runc.stderr"
        try:
            # A file, not a pipe: a CRIU that outlives runc would hold a pipe open and keep us waiting for its end.
            with said.open("wb") as stderr:
                runc = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=self.environment(),
                )
            exit_code = interrupted.wait(runc, first_pid, timeout_seconds)
        except subprocess.TimeoutExpired as problem:
            raise FailureError(
                Failure(
                    code="dump-timeout",
                    cause=f"the dump was not done within {timeout_seconds:g} s",
                    advice="Look at the speed of the disk under the worker's state directory, or allow more time.",
                )
            ) from problem
        if exit_code:
            failure = criu_tool.explain(work_path / "dump.log", said.read_text(errors="replace"), self.criu)
            raise FailureError(interrupted.interruption(exit_code, first_pid, failure))

    def kill(self, root: Path, container_id: str, signal_name: str) -> None:
        """Send a signal to the container's first process.

        Raises:
            FailureError: ``runc-failed`` with what runc said.
        """
        self._run([str(self.binary), "--root", str(root), "kill", container_id, signal_name])

    def delete(self, root: Path, container_id: str, *, force: bool = False) -> None:
        """Remove a container; ``force`` kills it first and does not mind if there is none.

        Raises:
            FailureError: ``runc-failed`` with what runc said.
        """
        flags = ["--force"] if force else []
        self._run([str(self.binary), "--root", str(root), "delete", *flags, container_id])

    def environment(self) -> dict[str, str]:
        """The environment for a runc that shall find our CRIU."""
        return {**os.environ, "PATH": f"{self.criu.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.environment(),
                timeout=_SHORT_SECONDS,
                check=True,
            )
        except subprocess.TimeoutExpired as problem:
            raise FailureError(
                Failure(
                    "runc-failed", f"runc did not answer within {_SHORT_SECONDS:g} s", "Look at the machine's load."
                )
            ) from problem
        except subprocess.CalledProcessError as problem:
            raise FailureError(
                Failure("runc-failed", f"runc {command[-2]} failed", "See the detail.", problem.stderr.strip())
            ) from problem
        except OSError as problem:
            raise FailureError(
                Failure("runc-missing", f"{self.binary} does not run: {problem.strerror}", "Install runc.")
            ) from problem


@contextmanager
def _unstopped(freezer: Freezer, stopped_pids: Collection[int]) -> Iterator[None]:
    """Let no process be stopped, only frozen, while CRIU takes hold of it: ptrace(2) cannot seize one that is both.

    Neither signal is acted upon before the thaw, and then SIGSTOP has cancelled SIGCONT (signal(7)): the process stops
    again before it runs one instruction.
    """
    pids = criu_tool.pids_outside(freezer.pids(), stopped_pids) if stopped_pids and freezer.version == 1 else ()
    if not pids or not freezer.is_frozen():
        yield
        return
    try:
        _signal_all(pids, signal.SIGCONT)
        yield
    finally:
        _signal_all(pids, signal.SIGSTOP)


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _status(folder: Path, raw: dict[str, Any], cgroup_paths: dict[str, str]) -> str:
    """Derive the status as runc does (``currentStatus`` in libcontainer/container_linux.go)."""
    with suppress(OSError):
        after_name = Path(f"/proc/{raw['init_process_pid']}/stat").read_text().rpartition(") ")[2].split()
        if after_name[0] not in {"Z", "X"} and int(after_name[19]) == raw["init_process_start"]:
            with suppress(OSError, KeyError):
                if Freezer(Path(cgroup_paths["freezer"]), 1).is_frozen():
                    return "paused"
            with suppress(OSError, KeyError):
                if Freezer(Path(cgroup_paths[""]), 2).is_frozen():
                    return "paused"
            return "created" if (folder / "exec.fifo").exists() else "running"
    return "stopped"
