"""What the runtime's slow path knows of one container: its marker, its bundle, its processes, its host name.

The marker is a file that ``create`` writes and ``delete`` removes; the fast path only asks whether it is there. It tells
how far creation came, so that a call that follows a killed one knows what to clean up. Beside it, ``resume`` tells the fast path
whom to continue at ``start`` (runc's root, the first process and its birth, all pids; a line each), which leaves ``starting`` before
it continues anybody, and ``started`` when all go on.
"""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import os
import time

from nodeworker.runtime import children, restore_process
from nodeworker.runtime.minimal_stdlib import json, signal, suppress

CRIU_CONFIG_ANNOTATION = "org.criu.config"
_CLONE_NEWUTS = 0x04000000
_POLL_SECONDS = 0.02

Json = dict[str, object]

TYPE_CHECKING = False  # as in lean.py
if TYPE_CHECKING:
    from collections.abc import Callable


class Marker:
    """The marker of one container. ``phase``: ``asking``, ``creating``, ``created``, ``starting``, ``started``.

    Until ``created`` none of its processes has gone on; from ``starting`` on they may have.
    """

    __slots__ = ("data", "folder", "path")

    def __init__(self, folder: str, data: Json) -> None:
        self.folder = folder
        self.path = os.path.join(folder, "marker")
        self.data = data

    @classmethod
    def read(cls, folder: str) -> Marker | None:
        """Read the marker in ``folder``; ``None`` where there is none, or none that can be read."""
        try:
            with open(os.path.join(folder, "marker"), "rb") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return None
        return cls(folder, data) if isinstance(data, dict) else None

    def update(self, **changes: object) -> None:
        """Write the marker anew, as a whole."""
        self.data.update(changes)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        write_whole(self.path, self.data, 0o600)

    def remove(self) -> None:
        """Remove the marker; the rest of the folder is the worker's, an empty one goes too."""
        for path in (*self._others(), self.path):
            with suppress(FileNotFoundError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(self.folder)

    def begin(self) -> None:
        """Write the first marker of a ``create``, and forget what an earlier container of the id has left."""
        for path in self._others():
            with suppress(FileNotFoundError):
                os.unlink(path)
        self.update(phase="asking")

    def write_resume(self, root: str, state: State) -> None:
        """Let the fast path start the container, if that takes no more than continuing every process."""
        pids = state.pids()
        if not self.stopped_pids and "\n" not in root and pids:
            with suppress(OSError), open(os.path.join(self.folder, "resume"), "x", encoding="utf-8") as file:
                first = f"{state.pid} {state.data.get('init_process_start')}"
                file.write(f"{root}\n{first}\n{' '.join(map(str, pids))}\n")

    def _others(self) -> tuple[str, ...]:
        return tuple(os.path.join(self.folder, name) for name in ("resume", "starting", "started"))

    def text(self, name: str) -> str:
        """A field as text."""
        return str(self.data.get(name, ""))

    @property
    def phase(self) -> str:
        """How far the container came."""
        phase = self.text("phase")
        if phase != "created":
            return phase
        told = (name for name in ("started", "starting") if os.path.exists(os.path.join(self.folder, name)))
        return next(told, phase)

    @property
    def let_go(self) -> bool:
        """Whether its processes may have gone on, beyond what creating it takes."""
        return self.phase not in {"asking", "creating", "created"}

    @property
    def stopped_pids(self) -> frozenset[int]:
        """Pids inside the container that ``start`` leaves stopped."""
        pids = self.data.get("stopped_pids")
        return frozenset(pids) if isinstance(pids, list) else frozenset()


def write_whole(path: str, data: Json, mode: int) -> None:
    """Write JSON so that a reader sees the old file or the new one.

    Raises:
        OSError: and the old file stands.
    """
    fresh = f"{path}.{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file)
            os.fchmod(file.fileno(), mode)
        os.rename(fresh, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def read_json(path: str) -> Json:
    """Read a JSON object.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is no object.
    """
    with open(path, "rb") as file:
        try:
            data = json.load(file)
        except RecursionError as problem:
            raise ValueError(f"{path} is nested too deeply") from problem
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")  # noqa: TRY004  # callers treat it as malformed JSON
    return data


def adapt(bundle: str, criu_config: str, further: Callable[[Json], bool] | None = None) -> None:
    """Make the bundle's config.json one whose container can be dumped and restored.

    ``further`` changes it as well, and says whether it did. It names the CRIU configuration, over whatever the pod may have named there; and bind mounts name what their sources lead to:
    runc follows a symbolic link, CRIU would bind the link itself at a restore.
    """
    path = os.path.join(bundle, "config.json")
    spec = read_json(path)
    changed = _resolve_sources(spec, bundle)
    if further is not None and further(spec):
        changed = True
    annotations = part(spec, "annotations")
    if changed or annotations.get(CRIU_CONFIG_ANNOTATION) != criu_config:
        spec["annotations"] = {**annotations, CRIU_CONFIG_ANNOTATION: criu_config}
        write_whole(path, spec, os.stat(path).st_mode & 0o7777)


def _resolve_sources(spec: Json, bundle: str) -> bool:
    changed = False
    mounts = spec.get("mounts")
    for mount in mounts if isinstance(mounts, list) else []:
        if not isinstance(mount, dict):  # runc says so
            continue
        options = mount.get("options")
        options = options if isinstance(options, list) else ()
        source = os.path.join(bundle, str(mount.get("source") or ""))
        if (mount.get("type") == "bind" or "bind" in options or "rbind" in options) and os.path.islink(source):
            mount["source"] = os.path.realpath(source)
            changed = True
    return changed


def part(data: Json, name: str) -> Json:
    """An object inside of an object; empty where there is none."""
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def environment(spec: Json) -> dict[str, str]:
    """The variables in config.json; of one that stands there several times, the last value."""
    listed = part(spec, "process").get("env")
    pairs = [pair.partition("=") for pair in listed if isinstance(pair, str)] if isinstance(listed, list) else []
    return {name: value for name, _, value in pairs}


VALUE_CHARS = 16 << 10
"""How long a variable may become by replacing references; the control plane has the same limit."""


def variable(spec: Json, name: str) -> str | None:
    """The value of an environment variable in config.json, the last one if there are several; ``None`` if there is none.

    The kubelet replaces ``$(NAME)`` only by what stands before, and the Job controller puts JOB_COMPLETION_INDEX behind all
    else: what is left over is replaced here by whatever the environment holds, once and from left to right. A value that grows
    beyond any id is left as it is, and is refused as an id.
    """
    known = environment(spec)
    value = known.pop(name, None)
    return value if value is None or "$(" not in value else _replaced(value, known)


def _replaced(text: str, known: dict[str, str]) -> str:
    pieces: list[str] = []
    length, at, last = 0, 0, text.rfind(")")
    while 0 <= (found := text.find("$(", at)) < last:
        end = text.index(")", found) + 1
        piece = known.get(text[found + 2 : end - 1], text[found:end])
        pieces += text[at:found], piece
        length += found - at + len(piece)
        if length > VALUE_CHARS:
            return text
        at = end
    pieces.append(text[at:])
    return "".join(pieces) if length + len(text) - at <= VALUE_CHARS else text


class State:
    """runc's state.json of the container, or what is left of it."""

    def __init__(self, root: str, container_id: str) -> None:
        self.folder = os.path.join(root, container_id)
        self.data: Json = {}
        with suppress(OSError, ValueError):
            self.data = read_json(os.path.join(self.folder, "state.json"))

    @property
    def exists(self) -> bool:
        """Whether runc knows the container."""
        return bool(self.data)

    @property
    def pid(self) -> int:
        """The container's first process, 0 if unknown."""
        pid = self.data.get("init_process_pid")
        return pid if isinstance(pid, int) else 0

    @property
    def alive(self) -> bool:
        """Whether the first process is there, and is the one that runc started."""
        return self.pid > 0 and children.birth(self.pid) == str(self.data.get("init_process_start"))

    @property
    def cgroup(self) -> str:
        """The cgroup with the freezer: its controller's on v1, the only one on v2."""
        paths = part(self.data, "cgroup_paths")
        return str(paths.get("freezer") or paths.get("") or "")

    def pids(self) -> list[int]:
        """Every process of the container, children before their parents."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.cgroup) if self.cgroup else ():
            with suppress(OSError), open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                found += [int(line) for line in file]
        parents = {pid: _status(pid).get("PPid", "0") for pid in found}

        def depth(pid: int) -> int:
            steps = 0
            while pid in parents and steps <= len(parents):
                pid, steps = int(parents[pid]), steps + 1
            return steps

        return sorted(found, key=depth, reverse=True)

    def outside(self) -> list[int]:
        """The container's first process and those that descend from it, as far as they are not in its cgroup.

        Needs /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN), as CRIU does. A process that has ended and was not waited for
        is in no list of a cgroup's processes.
        """
        found, unseen = [], [self.pid]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            with suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                        unseen += [int(word) for word in file.read().split()]
        within = set(self.pids())
        return [pid for pid in found if pid not in within and _status(pid).get("State", "Z")[0] not in "ZX"]

    def resume(self, leave: frozenset[int], wait_seconds: float) -> list[int]:
        """Continue every process but those that job control had stopped, and return those that are stopped all the same.

        Children first: no parent sees a stopped child.
        """
        resumed = []
        for pid in self.pids():
            inside = _status(pid).get("NSpid", "").split()
            if inside and int(inside[-1]) not in leave:
                resumed.append(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + wait_seconds
        while still := [pid for pid in resumed if _status(pid).get("State", "").startswith("T")]:
            if time.monotonic() >= deadline:
                return still
            time.sleep(_POLL_SECONDS)
        return [] if resumed or leave else [self.pid]

    def release(self, container_id: str, wait_seconds: float) -> None:
        """Thaw what a worker that died left frozen, but not under a dump that outlived it.

        A CRIU that still holds the tasks writes FROZEN back before it lets go: wait for it, within the bound, and for no tracer inside.
        """
        if not self.cgroup:
            return
        deadline = time.monotonic() + wait_seconds
        while time.monotonic() < deadline and self._is_dumped(container_id):
            time.sleep(_POLL_SECONDS)
        for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            path = os.path.join(self.cgroup, name)
            if os.path.exists(path):
                with suppress(OSError), open(path, "w", encoding="ascii") as file:
                    file.write(word)

    def _is_dumped(self, container_id: str) -> bool:
        own = {str(pid) for pid in self.pids()}
        tracers = {_status(int(pid)).get("TracerPid", "0") for pid in own}
        return not tracers <= {"0", *own} or _dump_runs(container_id, own)

    def detach_leftovers(self) -> None:
        """Unmount what a killed ``runc restore`` left under its state, before ``runc delete`` removes files through it."""
        root = os.path.join(self.folder, "criu-root")
        if os.path.ismount(root):
            restore_process.detach(root)


def uts_namespace(spec: Json) -> tuple[bool, str]:
    """Whether the container has a UTS namespace other than the host's, and its path if it joins one that is there."""
    namespaces = part(spec, "linux").get("namespaces")
    for namespace in namespaces if isinstance(namespaces, list) else []:
        if isinstance(namespace, dict) and namespace.get("type") == "uts":
            return True, str(namespace.get("path") or "")
    return False, ""


def names_to_set(spec: Json) -> tuple[str, dict[str, str]]:
    """The UTS namespace that the container joins, if it does, and the names that are to be in force after a restore."""
    separate, joined = uts_namespace(spec)
    if joined:
        return joined, names_in(joined)
    given = {name: spec.get(name) for name in ("hostname", "domainname")} if separate else {}
    return "", {name: value for name, value in given.items() if isinstance(value, str) and value}


def names_in(namespace: str) -> dict[str, str]:
    """The host and domain name in a UTS namespace, by the names of their files under /proc/sys/kernel."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _enter(namespace)
            names = {}
            for name in ("hostname", "domainname"):
                with open(f"/proc/sys/kernel/{name}", encoding="utf-8") as file:
                    names[name] = file.read().rstrip("\n")
            os.write(writing, json.dumps(names).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    return json.loads(data) if data else {}


def set_names(namespace: str, names: dict[str, str]) -> bool:
    """Set host and domain name in a UTS namespace; say whether that worked."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _enter(namespace)
            for name, value in names.items():
                with open(f"/proc/sys/kernel/{name}", "w", encoding="utf-8") as file:
                    file.write(value)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _enter(namespace: str) -> None:
    import ctypes  # noqa: PLC0415  # slow to import and rarely needed

    descriptor = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None).setns(descriptor, _CLONE_NEWUTS) != 0:
        raise OSError(f"cannot enter {namespace}")


def _status(pid: int) -> dict[str, str]:
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    return {}


def _dump_runs(container_id: str, own: set[str]) -> bool:
    """Whether a ``runc checkpoint`` of this container is under way, from the command lines of all processes but its ``own``."""
    for name in os.listdir("/proc"):
        if name.isdigit() and name not in own:
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if b"checkpoint" in words and container_id.encode() in words:
                    return True
    return False
