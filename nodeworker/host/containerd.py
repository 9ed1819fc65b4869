"""The containerd of this node: finding it, giving it our runtime and taking it away, and restarting it when that is needed.

A node whose containerd does not come back runs nothing any more, so a changed file is checked three times: as TOML, by
``containerd config dump`` (all that was in force must still be, with our runtime besides), and after the restart by the
CRI itself. Whichever fails, the old file is put back. Nothing is restarted unless the file has changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeworker.domain import containerd_config as text
from nodeworker.host import cri
from woodfrog.protocol.failures import Failure, FailureError

SOCKETS: Final = (Path("/run/containerd/containerd.sock"), Path("/run/k3s/containerd/containerd.sock"))
CONFIG: Final = Path("/etc/containerd/config.toml")

_VERSION: Final = re.compile(r"\bv?(\d+)\.(\d+)\.\d+\S*")
_OLDEST: Final = (1, 5)
_GENERATED: Final = ("/var/lib/rancher/", "/run/k3s/")
_TOOL_SECONDS: Final = 30
_RESTART_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.1
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Containerd:
    """A running containerd."""

    socket: Path
    pid: int
    binary: str
    config: Path
    path: str
    """Where it looks for programs."""
    unit: str | None
    """The service of systemd that it is, if any."""

    def dump(self, config: Path | None = None) -> text.Table:
        """Read the configuration that would be in force, defaults and imports included, with ``config`` as its file.

        Raises:
            FailureError: ``containerd-config`` when containerd itself does not accept it.
        """
        file = config or self.config
        # Without a file, containerd runs with its defaults, and refuses to dump them.
        said = ["--config", str(file), "config", "dump"] if file.exists() else ["config", "default"]
        try:
            done = subprocess.run(
                [self.binary, *said], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True
            )
            return text.parse(done.stdout)
        except (OSError, subprocess.SubprocessError, text.ConfigError) as problem:
            words = (getattr(problem, "stderr", None) or str(problem)).strip()[-1000:]
            raise failure(
                f"containerd does not accept {file}",
                "Run `containerd config dump` to see what it says; nothing was changed.",
                words,
            ) from problem


def find(address: Path | None = None, config: Path | None = None) -> Containerd | None:
    """Find the containerd that listens on a socket, by default on one of the usual ones.

    Raises:
        FailureError: ``containerd-hidden`` when it is seen only from another PID namespace.
    """
    for each in [address] if address else SOCKETS:
        pid = _listener(each)
        if pid is None:
            continue
        if pid == 0:
            raise FailureError(
                Failure(
                    "containerd-hidden",
                    f"the containerd at {each} runs in a PID namespace that cannot be seen from here",
                    "Run this in the host's PID namespace (hostPID: true).",
                )
            )
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends at this moment
            return Containerd(each, pid, _binary(pid), config or _config_of(pid), _path_of(pid), _unit_of(pid))
    return None


def refuse_old(found: Containerd) -> None:
    """Refuse a containerd that does not tell a container's runtime the namespace of its pod (before 1.5).

    Raises:
        FailureError: ``containerd-old``.
    """
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [found.binary, "--version"], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True
        )
        numbers = _VERSION.search(done.stdout)
        if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
            raise FailureError(
                Failure(
                    "containerd-old",
                    f"the containerd at {found.socket} is {numbers[0].strip()}: it does not say which namespace a pod is in",
                    "Use containerd 1.5 or newer; Kubernetes asks for 1.6 since 1.26.",
                )
            )


def file_to_edit(found: Containerd) -> Path:
    """Tell which file holds the CRI's section: an imported one replaces that of the main file (containerd#5837).

    Raises:
        FailureError: ``containerd-config``.
    """
    if not found.config.exists():
        return found.config
    main = _parsed(found.config)
    holder = found.config
    for pattern in main.get("imports") or []:
        absolute = Path(pattern) if Path(pattern).is_absolute() else found.config.parent / pattern
        for path in sorted(absolute.parent.glob(absolute.name)):
            if path != found.config and text.has_plugin(_parsed(path)):
                holder = path
    return holder.resolve()


def refuse_generated(path: Path) -> None:
    """Refuse a file that another program writes anew at each start.

    Raises:
        FailureError: ``containerd-generated``.
    """
    if str(path).startswith(_GENERATED):
        raise FailureError(
            Failure(
                "containerd-generated",
                f"{path} is rewritten at each start of k3s or RKE2",
                f"Add the runtime {text.HANDLER!r} to config.toml.tmpl beside it (config-v3.toml.tmpl for containerd 2), "
                "as docs/how-to/install-a-node.md shows, restart k3s, and install again.",
            )
        )


def with_runtime(found: Containerd, path: Path, before: text.Table, binary: str) -> str:
    """Make the new content of the file at ``path``; ``before`` is the configuration in force.

    Raises:
        FailureError: ``containerd-config``, ``handler-foreign`` or ``cri-disabled``.
    """
    if text.cri_disabled(before):
        raise FailureError(
            Failure(
                "cri-disabled",
                f"{found.config} turns the CRI plugin off (disabled_plugins)",
                "This node's pods are not containerd's; if they are to be, take `cri` from disabled_plugins first.",
            )
        )
    known = text.runtimes(before)
    if text.HANDLER in known:
        raise FailureError(
            Failure(
                "handler-foreign",
                f"the runtime {text.HANDLER!r} of {found.config} is not Woodfrog's: "
                f"{known[text.HANDLER].get('options', {}).get('BinaryName') or 'no BinaryName'}",
                "Uninstall what put it there, or take that table out, and install again.",
            )
        )
    name, base = text.default_runtime(before)
    content = path.read_bytes().decode() if path.exists() else ""
    tables = {text.HANDLER: text.our_runtime(base, binary)}
    try:
        if not text.runtimes(text.parse(content)):
            # A table of runtimes replaces the built-in ones, so those must be written down with it.
            tables = known | tables
        return text.add(content, tables, layout=text.version(before))
    except text.ConfigError as problem:
        raise failure(
            f"{path} cannot be edited: {problem}",
            f"Add the runtime {text.HANDLER!r} by hand, like {name!r}, as docs/how-to/install-a-node.md shows.",
        ) from problem


def check(found: Containerd, path: Path, content: str, before: text.Table, binary: str) -> None:
    """Let containerd read the new content before it counts, and compare what would be in force.

    Raises:
        FailureError: ``containerd-config``.
    """
    if path != found.config.resolve() and path.exists():
        after = _dump_in_place(found, path, content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".woodfrog", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode())
            after = found.dump(Path(fresh))
        finally:
            Path(fresh).unlink()
    if not text.is_ours(text.runtimes(after).get(text.HANDLER, {}), binary):
        raise failure(
            f"with the runtime in {path}, containerd does not know it",
            "Another file of its imports may replace the section; put the runtime there by hand.",
        )
    if not text.same_but_for(before, after, text.HANDLER):
        raise failure(
            f"with the runtime in {path}, other settings would change",
            f"Add the runtime {text.HANDLER!r} by hand, as docs/how-to/install-a-node.md shows.",
        )


def restart(found: Containerd, *, handler: bool) -> None:
    """Restart containerd and wait until its CRI answers, with our handler or without it.

    Raises:
        FailureError: ``containerd-down``.
    """
    _say(f"restarting {found.unit or f'containerd (pid {found.pid})'}")
    if found.unit:
        subprocess.run(["systemctl", "restart", found.unit], check=False, capture_output=True, timeout=_RESTART_SECONDS)
    else:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + _RESTART_SECONDS
    problem = "nothing listens on its socket"
    while time.monotonic() < deadline:
        pid = _listener(found.socket)
        if pid is not None and pid != found.pid:
            try:
                status = cri.status(found.socket)
            except cri.CriError as failed:
                problem = str(failed)
            else:
                handlers = status.handlers()
                if status.ready and (not handlers or (text.HANDLER in handlers) == handler):
                    return
                problem = f"ready: {status.ready}, runtimes: {', '.join(sorted(handlers))}"
        time.sleep(_POLL_SECONDS)
    raise FailureError(
        Failure(
            "containerd-down",
            f"containerd did not come back as it should within {_RESTART_SECONDS:g} s: {problem}",
            "Read its log. Where no supervisor restarts it, start it as usual.",
        )
    )


def replace(path: Path, content: bytes, like: Path | None = None) -> None:
    """Write a file at once and as a whole, with the owner, mode, times and attributes of ``like``, or of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".woodfrog", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        pattern = like or (path if path.exists() else None)
        if pattern is None:
            Path(fresh).chmod(0o644)
        else:
            owner = pattern.stat()
            os.chown(fresh, owner.st_uid, owner.st_gid)
            shutil.copystat(pattern, fresh)
            if like is None:
                os.utime(fresh)
        Path(fresh).rename(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def runc_of(before: text.Table) -> str:
    """The OCI runtime that this node's pods have now, as a name or a path."""
    _, base = text.default_runtime(before)
    return str(base.get("options", {}).get("BinaryName") or "runc")


def failure(cause: str, advice: str, detail: str = "") -> FailureError:
    """Make the failure of a configuration that cannot be used."""
    return FailureError(Failure("containerd-config", cause, advice, detail))


def _dump_in_place(found: Containerd, path: Path, content: str) -> text.Table:
    old = path.read_bytes()
    kept = path.with_name(f".{path.name}.woodfrog-before")
    shutil.copy2(path, kept)
    try:
        replace(path, content.encode())
        return found.dump()
    finally:
        replace(path, old, like=kept)
        kept.unlink()


def _parsed(path: Path) -> text.Table:
    try:
        return text.parse(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError, text.ConfigError) as problem:
        raise failure(f"{path} cannot be read: {problem}", "Correct it; nothing was changed.") from problem


def _listener(address: Path) -> int | None:
    """Pid of the process that listens at a socket (SO_PEERCRED, unix(7)); 0 if it is in no namespace of ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TOOL_SECONDS)
        try:
            connection.connect(str(address))
        except OSError:
            return None
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iII", peer)[0])


def _binary(pid: int) -> str:
    return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")


def _config_of(pid: int) -> Path:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    for number, word in enumerate(words):
        if word in {"--config", "-config", "-c", "--c"} and number + 1 < len(words):
            return Path(words[number + 1])
        if word.startswith(("--config=", "-config=", "-c=")):
            return Path(word.partition("=")[2])
    return CONFIG


def _path_of(pid: int) -> str:
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"):
            if entry.startswith("PATH="):
                return entry.removeprefix("PATH=")
    return _PATH


def _unit_of(pid: int) -> str | None:
    if not Path("/run/systemd/system").is_dir():
        return None
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        name = line.rpartition("/")[2]
        if name.endswith(".service"):
            return name
    return None


def _say(words: str) -> None:
    print(f"woodfrog: {words}", flush=True)  # noqa: T201 -- what an administrator reads in the init container's log
