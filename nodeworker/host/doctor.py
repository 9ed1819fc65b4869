"""What works on this node and what does not, each with an advice: the first thing to run when pods do not start."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
import obstore
from obstore.store import from_url

from nodeworker.capture.criu import criu as criu_tool
from nodeworker.domain import containerd_config as text
from nodeworker.errors import refusal
from nodeworker.host import containerd, cri, facts, self_test
from nodeworker.host.install import Options, read_record
from nodeworker.store.object_store import DirectoryObjects
from woodfrog.protocol.failures import FailureError
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.natstls import CA_FILE, Trust, greeting

OLDEST_KERNEL: Final = (5, 11)
_SECONDS: Final = 10
_STORE_SECONDS: Final = 20.0
_TRIED: Final = "woodfrog-doctor"
"""The folder in which a store in a directory is tried."""
_SCARCE_BYTES: Final = 1 << 30
_UNLIMITED_BYTES: Final = 1 << 60
_MARKS: Final = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


def examine(options: Options, environment: Mapping[str, str], *, installed: bool = True) -> Iterator[Finding]:
    """Look at everything in turn; nothing is changed; a container is made, dumped and restored for it.

    ``installed``: whether this is a node with an installation and a container engine, or only a machine with a worker.
    """
    checks: tuple[Callable[[Options, Mapping[str, str]], Finding], ...] = (
        _kernel, _cgroups, _memory, *((_installation,) if installed else ()), _runc, _criu, _self_test,
        *((_engine,) if installed else ()), _worker, _space, _nats, _store,
    )  # fmt: skip
    for check in checks:
        name = check.__name__.strip("_").replace("_", "-")
        try:
            yield check(options, environment)
        except FailureError as problem:
            yield Finding(name, "failed", problem.failure.cause, problem.failure.advice)
        except Exception as problem:  # noqa: BLE001 -- a doctor goes on to the next question
            yield Finding(name, "failed", repr(problem), "Report this.")


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Write findings to standard output as they come, or as one JSON list; return the exit code: 1 if any failed."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            sys.stdout.write(f"{_MARKS[finding.state]}  {finding.what:<12}  {finding.found}\n")
            if finding.advice:
                sys.stdout.write(f"{'':23}{finding.advice}\n")
            sys.stdout.flush()
    if as_json:
        sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
    return int(any(finding.state == "failed" for finding in seen))


def _kernel(_options: Options, _environment: Mapping[str, str]) -> Finding:
    release = os.uname().release
    numbers = tuple(int(each) for each in re.findall(r"\d+", release)[:2])
    if numbers < OLDEST_KERNEL:
        return Finding("kernel", "failed", release, "Woodfrog needs Linux 5.11 or later.")
    return Finding("kernel", "ok", release)


def _cgroups(_options: Options, _environment: Mapping[str, str]) -> Finding:
    version = facts.cgroup_version(Path("/proc/self/mounts"))
    if version is None:
        return Finding("cgroups", "failed", "no freezer is mounted", "Mount cgroup v2, or v1's freezer controller.")
    return Finding("cgroups", "ok", f"version {version}")


def _memory(_options: Options, _environment: Mapping[str, str]) -> Finding:
    limit = memory_limit_bytes()
    if limit is None:
        return Finding("memory", "ok", "no limit")
    advice = "A worker that is killed for memory leaves containers frozen until it is back: take the limit away."
    return Finding("memory", "warning", f"limited to {limit >> 20} MiB", advice)


def _installation(options: Options, _environment: Mapping[str, str]) -> Finding:
    places = options.places
    if not os.access(places.runtime, os.X_OK) or not places.current.exists():
        return Finding("installation", "failed", f"{places.runtime} is not there", "Run `woodfrog-node install`.")
    return Finding("installation", "ok", f"release {places.current.resolve().name}")


def tools(options: Options, environment: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the node's runc and CRIU.

    Raises:
        FailureError: ``tool-missing``.
    """
    record = read_record(options.places)
    named = options.runc or environment.get("WOODFROG_RUNC") or (record.runc if record else "runc")
    runc = shutil.which(named)
    if runc is None:
        raise refusal("tool-missing", f"{named} is not there", "Install runc, or set WOODFROG_RUNC.")
    criu = Path(environment.get("WOODFROG_CRIU") or options.places.bin / "criu")
    if not criu.exists():
        raise refusal("tool-missing", f"{criu} is not there", "Run `woodfrog-node install`, or set WOODFROG_CRIU.")
    return Path(runc), criu


def _runc(options: Options, environment: Mapping[str, str]) -> Finding:
    path, _ = tools(options, environment)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    first = said.partition("\n")[0]
    if "runc" not in first:
        return Finding("runc", "warning", f"{path}: {first}", "Only runc is known to restore containers.")
    return Finding("runc", "ok", f"{path}: {first}")


def _criu(options: Options, environment: Mapping[str, str]) -> Finding:
    _, criu = tools(options, environment)
    return Finding("criu", "ok", f"{criu}: version {criu_tool.version(criu)}")


def _self_test(options: Options, environment: Mapping[str, str]) -> Finding:
    """Let a container go the whole way, whatever an earlier test gave."""
    outcome = self_test.run(*tools(options, environment))
    if outcome.failure is not None:
        failure = self_test.refusal_of(outcome)
        return Finding("self-test", "failed", failure.cause, failure.advice)
    said = f"a container was dumped, restored and continued in its new cgroup ({outcome.seconds:.1f} s)"
    return Finding("self-test", "ok", said)


def _engine(options: Options, _environment: Mapping[str, str]) -> Finding:
    found = containerd.find(options.socket, options.config)
    if found is None:
        if Path("/run/crio/crio.sock").exists():
            return crio_finding(cri.status(Path("/run/crio/crio.sock")))
        return Finding("engine", "failed", "no containerd listens", "Start it, or name its socket.")
    try:
        status = cri.status(found.socket)
    except cri.CriError as problem:
        return Finding("engine", "failed", str(problem), "Read containerd's log.")
    if not status.ready:
        return Finding("engine", "failed", f"containerd at {found.socket} is not ready", "Read containerd's log.")
    if text.HANDLER not in status.handlers():
        return Finding(
            "engine", "failed", f"containerd knows no runtime {text.HANDLER}", "Run `woodfrog-node install`."
        )
    return Finding("engine", "ok", f"containerd at {found.socket} knows the runtime {text.HANDLER}")


def crio_finding(status: cri.CriStatus) -> Finding:
    """Judge what CRI-O says of itself: a runtime that it does not like is left out with no more than a line in its log."""
    if not status.ready:
        return Finding("engine", "failed", "CRI-O", "Read its log.")
    if not status.handlers():
        advice = f"CRI-O before 1.30 does not list its runtimes: see in its log that it has {text.HANDLER}."
        return Finding("engine", "ok", "CRI-O", advice)
    if text.HANDLER not in status.handlers():
        advice = "Run `woodfrog-node install`; CRI-O's log has the reason why it left the runtime out."
        return Finding("engine", "failed", f"CRI-O knows no runtime {text.HANDLER}", advice)
    return Finding("engine", "ok", f"CRI-O knows the runtime {text.HANDLER}")


def _worker(options: Options, environment: Mapping[str, str]) -> Finding:
    address = Path(environment.get("WOODFROG_RUN_DIR") or options.places.run) / "worker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(str(address))
        except OSError as problem:
            return Finding("worker", "failed", f"{address}: {problem.strerror}", "Start it; read the log of its pod.")
    return Finding("worker", "ok", f"listens at {address}")


def _space(options: Options, environment: Mapping[str, str]) -> Finding:
    folder = Path(environment.get("WOODFROG_STATE_DIR") or options.places.state)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free >> 20} MiB free at {folder}"
    if free < _SCARCE_BYTES:
        return Finding("space", "warning", said, "A dump needs as much space as the container has memory.")
    return Finding("space", "ok", said)


def _nats(_options: Options, environment: Mapping[str, str]) -> Finding:
    url = environment.get("WOODFROG_NATS_URL") or "nats://127.0.0.1:4222"
    address = urllib.parse.urlsplit(url)
    shown = address._replace(netloc=f"{address.hostname}:{address.port or 4222}").geturl()  # without a password
    try:
        trust = Trust.from_environment(environment)
        hello, encrypted = greeting(url, trust, seconds=_SECONDS)
    except InvalidSettingError as problem:
        return Finding("nats", "failed", str(problem), "Correct the variable.")
    except ssl.SSLError as problem:
        return Finding("nats", "failed", f"{shown}: {problem}", f"Name who vouches for NATS in {CA_FILE}.")
    except OSError as problem:
        return Finding(
            "nats", "failed", f"{shown}: {problem}", "Dumps are taken, but nothing new can start: start NATS."
        )
    if not hello.startswith(b"INFO"):
        return Finding("nats", "failed", f"{shown} does not speak NATS", "Correct WOODFROG_NATS_URL.")
    if not encrypted and trust.insecure:
        return Finding("nats", "warning", f"{shown}, in the clear: others may read this node's token", "Use TLS.")
    return Finding("nats", "ok", f"{shown}, encrypted" if encrypted else shown)


def _store(options: Options, environment: Mapping[str, str]) -> Finding:
    state = environment.get("WOODFROG_STATE_DIR") or str(options.places.state)
    url = environment.get("WOODFROG_STORE_URL") or f"file://{state}/store"
    if url.startswith("file://"):
        folder = Path(url.removeprefix("file://"))
        if not folder.is_dir():
            return Finding(
                "store", "warning", f"{folder} is not there yet", "The worker makes it; on several nodes, share it."
            )
        problem = _try_directory(folder)
        if problem:
            return Finding(
                "store", "failed", f"{url}: {problem}", "Use a file system on which root may write, link or rename."
            )
        return Finding("store", "ok", url)
    said: list[str] = []
    looking = threading.Thread(target=_look, args=(url, said), daemon=True)
    looking.start()
    looking.join(_STORE_SECONDS)
    if said != [""]:
        problem = said[0] if said else f"no answer within {_STORE_SECONDS:g} s"
        return Finding("store", "failed", f"{url}: {problem}", "Check the URL, the credentials, and the network.")
    return Finding("store", "ok", url)


def _try_directory(folder: Path) -> str:
    """Store two objects under one name, as a snapshot's manifest is stored; return what is wrong with it."""
    objects, name, taken = DirectoryObjects(folder), f"try-{uuid.uuid4().hex}", False
    try:
        for _ in range(2):
            writer = objects.create(_TRIED)
            try:
                writer.write(b"woodfrog-node doctor\n")
                writer.commit(name, exclusive=True)
            except FileExistsError:
                taken = True
            finally:
                writer.abort()
    except FailureError as problem:
        return problem.failure.cause
    finally:
        with suppress(FailureError, OSError):
            objects.remove(_TRIED, name)
            objects.prune(_TRIED)
    return "" if taken else "a second object of a name takes the place of the first"


def _look(url: str, said: list[str]) -> None:
    try:
        next(iter(obstore.list(from_url(url), prefix="woodfrog-doctor")), None)
    except Exception as problem:  # noqa: BLE001 -- whatever a cloud's client raises is what we want to tell
        said.append(f"{problem}"[:500])
    else:
        said.append("")


def memory_limit_bytes() -> int | None:
    """Tell the memory limit of this process's own cgroup, or ``None``."""
    group: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group |= dict.fromkeys(controllers.split(","), path)
    candidates = [
        Path(f"/sys/fs/cgroup{group.get('', '')}/memory.max"),
        Path(f"/sys/fs/cgroup/memory{group.get('memory', '')}/memory.limit_in_bytes"),
    ]
    for candidate in candidates:
        with suppress(OSError, ValueError):
            limit = int(candidate.read_text())
            return limit if limit < _UNLIMITED_BYTES else None
    return None
