"""The Docker of this machine: giving it our runtime by its configuration file, and taking the runtime away again.

dockerd takes the key ``runtimes`` over at SIGHUP, without touching a container, and keeps its old configuration if it does not
accept the file. So a changed file is checked by dockerd itself, is asked for over its API afterwards, and is put back if the
runtime is not there then.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeworker.domain import engine_config
from nodeworker.domain.containerd_config import HANDLER
from nodeworker.domain.engine_config import EngineConfigError
from nodeworker.errors import refusal
from nodeworker.host.containerd import replace
from woodfrog.protocol.failures import FailureError

CONFIG: Final = Path("/etc/docker/daemon.json")
_SOCKET: Final = "/run/docker.sock"
_TOOL_SECONDS: Final = 30
_API_SECONDS: Final = 5.0
_RELOAD_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1

Before = str | None
"""What the file was before it was changed; ``None`` where there was none."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running dockerd."""

    pid: int
    sockets: tuple[str, ...]
    """Where it may listen."""

    def runtimes(self) -> dict[str, str]:
        """Return its runtimes with their paths.

        Raises:
            FailureError: ``engine-unreachable``.
        """
        for address in self.sockets:
            with suppress(OSError, ValueError, http.client.HTTPException), closing(_Connection(address)) as connection:
                connection.request("GET", "/info")
                found = json.loads(connection.getresponse().read())["Runtimes"]
                return {name: str(runtime.get("path", "")) for name, runtime in found.items()}
        raise refusal(
            "engine-unreachable",
            f"dockerd (pid {self.pid}) does not answer on {', '.join(self.sockets)}",
            "Look at its log (`journalctl -u docker`).",
        )


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, address: str) -> None:
        super().__init__("docker", timeout=_API_SECONDS)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_API_SECONDS)
        self.sock.connect(self._address)


def install(runtime: Path, config: Path = CONFIG) -> bool:
    """Add the runtime to Docker's configuration and have dockerd take it over; return whether the file was changed.

    Raises:
        FailureError: ``engine-missing``, ``engine-config``, ``engine-unreachable``; the file is as it was then.
    """
    config = config.resolve()
    daemon = find(config)
    if daemon is None and shutil.which("dockerd") is None:
        raise refusal(
            "engine-missing", "there is no Docker on this machine", "Install it, for instance Debian's docker.io."
        )
    before = read(config)
    try:
        content = engine_config.add_to_docker(before or "", str(runtime))
    except EngineConfigError as problem:
        raise _unfit(config, str(problem)) from problem
    if content != before:
        _check(config, content)
        replace(config, content.encode())
    if daemon is not None:
        try:
            _reload(daemon, config, str(runtime))
        except FailureError:
            _put(config, before)
            os.kill(daemon.pid, signal.SIGHUP)
            raise
    return content != before


def uninstall(runtime: Path, config: Path, before: Before) -> bool:
    """Take the runtime out of Docker's configuration; return whether it was there. ``before`` is what the file was without it.

    Containers that run go on; their shims know the runtime by its path.

    Raises:
        FailureError: ``engine-config``, ``engine-unreachable``.
    """
    config = config.resolve()
    content = read(config)
    try:
        bare = None if content is None else engine_config.cut_from_docker(content, str(runtime), before)
        forgetting = engine_config.naming_no_runtime(bare or "")
        empty = not engine_config.parse(bare or "")
    except EngineConfigError as problem:
        raise _unfit(config, str(problem)) from problem
    left = None if before is None and empty else bare
    daemon = find(config)
    if daemon is not None and daemon.runtimes().get(HANDLER) == str(runtime):
        replace(config, forgetting.encode())
        try:
            _reload(daemon, config, None)
        finally:
            _put(config, left)
    elif bare != content:
        _put(config, left)
    return bare != content


def find(config: Path) -> Daemon | None:
    """Find the running dockerd that reads a configuration file."""
    for process in Path("/proc").iterdir():
        with suppress(OSError, EngineConfigError):
            if not process.name.isdigit() or (process / "comm").read_text() != "dockerd\n":
                continue
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")[1:-1]
            named = next(_values(words, "--config-file"), str(CONFIG))
            if Path(named).resolve() == config:
                hosts = [*_values(words, "--host"), *_values(words, "-H")]
                hosts += engine_config.parse(read(config) or "").get("hosts") or []
                sockets = [host.removeprefix("unix://") for host in hosts if host.startswith("unix://")]
                return Daemon(int(process.name), (*sockets, _SOCKET))
    return None


def _values(words: list[str], option: str) -> Iterator[str]:
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            yield word.partition("=")[2]
        elif word == option and place + 1 < len(words):
            yield words[place + 1]


def read(config: Path) -> Before:
    """Read the file as it is.

    Raises:
        FailureError: ``engine-config``, if it cannot be read.
    """
    try:
        return config.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        raise _unfit(config, f"it cannot be read: {problem}") from problem


def _put(config: Path, content: Before) -> None:
    if content is None:
        config.unlink(missing_ok=True)
    else:
        replace(config, content.encode())


def _check(config: Path, content: str) -> None:
    """Have dockerd itself look at the file, where it can: from 23.0 on.

    Raises:
        FailureError: ``engine-config``, if dockerd does not accept it; nothing was changed.
    """
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        return
    trial = config.with_name(f".{config.name}.woodfrog")
    try:
        replace(trial, content.encode())
        done = subprocess.run(
            [dockerd, "--validate", "--config-file", str(trial)],
            capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False,
        )  # fmt: skip
    finally:
        trial.unlink(missing_ok=True)
    if done.returncode != 0 and "unknown flag" not in done.stderr:
        raise _unfit(config, "dockerd does not accept it with the runtime added", done.stderr.strip()[-1000:])


def _reload(daemon: Daemon, config: Path, runtime: str | None) -> None:
    """Have dockerd read its file and wait until it has the runtime, or has it no more.

    Raises:
        FailureError: ``engine-config``, ``engine-unreachable``.
    """
    if daemon.runtimes().get(HANDLER) == runtime:
        return
    os.kill(daemon.pid, signal.SIGHUP)
    deadline = time.monotonic() + _RELOAD_SECONDS
    while daemon.runtimes().get(HANDLER) != runtime:
        if time.monotonic() > deadline:
            raise _unfit(config, f"dockerd did not take it over within {_RELOAD_SECONDS:g} s of its reload")
        time.sleep(_POLL_SECONDS)


def _unfit(config: Path, cause: str, detail: str = "") -> FailureError:
    advice = "The file is as it was. Correct it, see dockerd's log (`journalctl -u docker`), and install again."
    return refusal("engine-config", f"{config}: {cause}", advice, detail)
