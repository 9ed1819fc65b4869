"""Making a machine a node of Woodfrog, and leaving it as it was.

What installing changes is written down under ``/etc/woodfrog`` before it is changed, with a copy of the file, so that
uninstalling knows what to give back, whoever does it and however long after. Both may be repeated: what is as it should
be is left alone, and containerd is restarted only when its file has changed. A new release never changes that file, which
names a path that stays.

A container that was created through our runtime needs it until it is deleted: its shim calls that path to stop it. So
uninstalling leaves a script there that hands over to runc, while there is such a container, and that removes itself after
the last.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from nodeworker.domain import containerd_config as text
from nodeworker.host import containerd, cri, crio, releases
from nodeworker.host.paths import Places
from nodeworker.host.self_test import KEPT
from nodeworker.runtime import install as runtime
from woodfrog.protocol.failures import Failure, FailureError

_CRIU_CACHE: Final = Path("/run/criu.kdat")
_WORKER_END_SECONDS: Final = 60.0

_FAREWELL: Final = """\
#!/bin/sh
# Woodfrog is not on this node any more. Containers that it created end through this, which hands over to runc and
# removes itself with the last of them.
runc={runc}
self={self}
case " $* " in
*" delete "*) ;;
*) exec "$runc" "$@" ;;
esac
"$runc" "$@"
code=$?
for id; do :; done
for file in {tasks}/*/*/runtime; do
    [ -e "$file" ] || continue
    folder=${{file%/runtime}}
    name=
    read -r name <"$file" || :
    [ "$name" != "$self" ] || [ "${{folder##*/}}" = "$id" ] || exit $code
done
rm -f "$self"
rmdir {folders} 2>/dev/null
exit $code
"""


class Record(msgspec.Struct, kw_only=True):
    """What installing changed on this node."""

    runc: str
    containerd_file: str | None = None
    """The file that was changed, if one was."""
    created: bool = False
    """Whether there was no such file."""
    backup: str | None = None
    criu_cache: bool = True
    """Whether CRIU's own cache of what the kernel can was there before."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands may be told."""

    places: Places
    socket: Path | None = None
    config: Path | None = None
    runc: str | None = None


def install(options: Options, bundle: Path) -> bool:
    """Install; return whether anything changed that others see.

    Raises:
        FailureError: see docs/reference/node.md; the node is as it was then, but for files under ``/opt/woodfrog``.
    """
    places = options.places
    with _alone(places):
        before = places.current.resolve() if places.current.exists() else None
        release = releases.lay(bundle, places)
        found = containerd.find(options.socket, options.config)
        if found is None and not crio.present(places):
            raise FailureError(
                Failure(
                    "engine-missing",
                    "neither containerd nor CRI-O runs on this node",
                    "Start it, or name containerd's socket with --containerd-socket.",
                )
            )
        if found is not None:
            containerd.refuse_old(found)
        dump = found.dump() if found else {}
        runc = _runc(options, found, dump)
        record = read_record(places) or Record(runc=runc, criu_cache=_CRIU_CACHE.exists())
        record.runc = runc
        _write_runtime(places, release, runc)
        releases.switch(release, places)
        changed = _add_runtime(places, found, dump, record) if found else False
        write_record(places, record)
        if crio.present(places):
            changed = crio.install(places) or changed
        releases.clear(places, before)
        return changed


def uninstall(options: Options, *, purge: bool = False) -> bool:
    """Leave the node as it was; return whether containers still need a runtime that hands over to runc.

    Whoever is killed in the middle may begin again: what was changed stays written down until all else is gone.

    Raises:
        FailureError: ``containerd-config`` or ``containerd-down``; what was not given back yet stays as it is then.
    """
    places = options.places
    with _alone(places, last=True):
        record = read_record(places)
        _end_worker(places)
        found = containerd.find(options.socket, options.config)
        tasks = _tasks(found)
        _take_runtime(places, found, record)
        crio.uninstall(places)
        needed = _users(places, tasks)
        if needed:  # before anything goes that the runtime of today needs: a container may end at any moment
            _farewell(places, record.runc if record else "runc", tasks)
        if record and not record.criu_cache and places.root == Path("/"):
            _remove(_CRIU_CACHE)
        for path in (places.releases, places.current, places.run, *((KEPT,) if places.root == Path("/") else ())):
            _remove(path)
        for path in list(places.bin.iterdir()) if places.bin.is_dir() else []:
            if path != places.runtime:
                _remove(path)
        if not needed:
            _remove(places.home)
        if purge:
            _remove(places.state)
        _remove(places.records)
    return needed


def read_record(places: Places) -> Record | None:
    """Read what installing changed, if it did."""
    path = places.records / "installed.json"
    return msgspec.json.decode(path.read_bytes(), type=Record) if path.exists() else None


def write_record(places: Places, record: Record) -> None:
    """Write down what is changed."""
    path = places.records / "installed.json"
    content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    if not path.exists() or path.read_bytes() != content:
        containerd.replace(path, content)


def _add_runtime(places: Places, found: containerd.Containerd, dump: text.Table, record: Record) -> bool:
    binary = str(places.runtime)
    if text.is_ours(text.runtimes(dump).get(text.HANDLER, {}), binary):
        return _in_force(found)
    path = containerd.file_to_edit(found)
    containerd.refuse_generated(path)
    content = containerd.with_runtime(found, path, dump, binary)
    containerd.check(found, path, content, dump, binary)
    backup = places.records / f"{path.name}.before"
    record.containerd_file, record.created = str(path), not path.exists()
    record.backup = None if record.created else str(backup)
    places.records.mkdir(parents=True, exist_ok=True)
    if record.backup:
        shutil.copy2(path, backup)
    write_record(places, record)
    containerd.replace(path, content.encode())
    try:
        containerd.restart(found, handler=True)
    except FailureError as problem:
        _give_back(path, record)
        again = containerd.find(found.socket, found.config) or found
        with suppress(FailureError):
            containerd.restart(again, handler=False)
        record.containerd_file = record.backup = None
        write_record(places, record)
        raise FailureError(
            msgspec.structs.replace(problem.failure, advice=f"{path} is as it was. {problem.failure.advice}")
        ) from problem
    return True


def _in_force(found: containerd.Containerd) -> bool:
    """See that containerd has read what its file says, as it has not if we were killed before the restart."""
    try:
        handlers = cri.status(found.socket).handlers()
    except cri.CriError:
        handlers = set()
    if text.HANDLER in handlers:
        return False
    containerd.restart(found, handler=True)
    return True


def _take_runtime(places: Places, found: containerd.Containerd | None, record: Record | None) -> None:
    """Take our runtime out of containerd's configuration, from where it was put or wherever it now is.

    A containerd that does not run now reads the file when it starts.
    """
    binary = str(places.runtime)
    candidates = [Path(record.containerd_file)] if record and record.containerd_file else []
    if found:
        with suppress(FailureError):
            candidates.append(containerd.file_to_edit(found))
    changed = False
    for path in dict.fromkeys(candidates):
        if not path.exists():
            continue
        content = path.read_bytes().decode()
        try:
            bare = text.cut(content, binary)
        except text.ConfigError as problem:
            raise containerd.failure(
                f"our runtime cannot be taken out of {path}: {problem}",
                f"Take the runtime {text.HANDLER!r} out by hand, restart containerd, and uninstall again.",
            ) from problem
        if bare == content:
            continue
        changed = True
        if record and record.created and record.containerd_file == str(path) and not bare:
            path.unlink()
            with suppress(OSError):
                path.parent.rmdir()
        else:
            backup = Path(record.backup) if record and record.backup else None
            same = backup is not None and backup.exists() and backup.read_bytes() == bare.encode()
            containerd.replace(path, bare.encode(), like=backup if same else None)
    if found and (changed or _unread(found)):
        containerd.restart(found, handler=False)


def _unread(found: containerd.Containerd) -> bool:
    """Whether containerd still has our runtime and its file no more, as when we were killed before the restart."""
    try:
        handlers = cri.status(found.socket).handlers()
    except cri.CriError:
        return False
    return text.HANDLER in handlers and text.HANDLER not in text.runtimes(found.dump())


def _give_back(path: Path, record: Record) -> None:
    if record.created:
        path.unlink(missing_ok=True)
    elif record.backup:
        backup = Path(record.backup)
        containerd.replace(path, backup.read_bytes(), like=backup)


def _write_runtime(places: Places, release: Path, runc: str) -> None:
    """Write the runtime if it is not as it should be. It names the release itself: a call that has begun stays with it."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = runtime.write_runtime(
            Path(scratch) / places.runtime.name,
            run_dir=places.run,
            runc=Path(runc),
            criu=release / "bin/criu",
            python=release / "bin/python3",
            packages=release / "app",
            variable=os.environ.get("WOODFROG_VARIABLE") or runtime.DEFAULT_VARIABLE,
        )
        content = fresh.read_bytes()
    if not places.runtime.exists() or places.runtime.read_bytes() != content:
        containerd.replace(places.runtime, content)
        places.runtime.chmod(0o755)


def _runc(options: Options, found: containerd.Containerd | None, dump: text.Table) -> str:
    """The runtime to hand over to: what was asked for, else what this node's pods have now, as a path."""
    named = options.runc or (containerd.runc_of(dump) if found else "runc")
    path = shutil.which(named, path=found.path if found else None) or shutil.which(named)
    for folder in ("/usr/libexec/crio", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"):
        path = path or shutil.which(f"{folder}/{named}")
    if path is None:
        raise FailureError(
            Failure(
                "tool-missing", f"{named} does not exist or is not a program", "Install it, or name it with --runc."
            )
        )
    return str(Path(path).absolute())


def _tasks(found: containerd.Containerd | None) -> Path:
    """Where containerd's shims note which runtime a container has."""
    state = Path("/run/containerd")
    if found:
        with suppress(FailureError):
            state = Path(found.dump().get("state") or state)
    return state / "io.containerd.runtime.v2.task"


def _users(places: Places, tasks: Path) -> bool:
    """Whether some container calls our runtime: containerd's shims note it, CRI-O's monitors are called with it."""
    wanted = str(places.runtime).encode()
    for note in tasks.glob("*/*/runtime"):
        with suppress(OSError):
            if note.read_bytes().strip() == wanted:
                return True
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if (process / "comm").read_text() == "conmon\n" and wanted in (process / "cmdline").read_bytes().split(
                b"\0"
            ):
                return True
    return False


def _farewell(places: Places, runc: str, tasks: Path) -> None:
    content = _FAREWELL.format(
        runc=shlex.quote(runc),
        self=shlex.quote(str(places.runtime)),
        tasks=shlex.quote(str(tasks)),
        folders=shlex.join([str(places.bin), str(places.home)]),
    )
    containerd.replace(places.runtime, content.encode())
    places.runtime.chmod(0o755)


def worker_pid(places: Places) -> int:
    """Pid of the worker that listens on this node, or 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(places.run / "worker.sock"))
        except OSError:
            return 0
        return int(struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def _end_worker(places: Places) -> None:
    """Let a worker that still runs come to an end in order; without its release it will not start again."""
    pid = worker_pid(places)
    if not pid:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _WORKER_END_SECONDS
    with suppress(FileNotFoundError):
        while time.monotonic() < deadline:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.05)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # A mount point that a pod holds (its state on a hostPath) is emptied and stays.
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(places: Places, *, last: bool = False) -> Iterator[None]:
    """Let one process at a time install or uninstall; the ``last`` one takes the lock away, while it holds it."""
    lock = places.run.with_name("woodfrog-install.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_at(held, lock):  # it was taken away while we waited, and somebody may hold another by now
                continue
            yield
            if last:
                lock.unlink()
            return
        finally:
            os.close(held)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
