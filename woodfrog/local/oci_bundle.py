"""The bundle of `woodfrog run`: what the command line asked for, as an OCI config.json.

Written by us instead of by ``runc spec``, because every line decides whether the container can be dumped: no terminal
(CRIU cannot carry a terminal of the host), namespaces of its own (pids and names must be free at the restore), and only
mounts that exist again, or are bound again, at the next start. Defaults are those of docker where they matter to a
workload (capabilities, masked paths, /dev/shm of 64 MiB). Source: OCI runtime-spec 1.0.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json
import os.path
import re
from pathlib import Path
from typing import Any

import msgspec

from nodeworker.domain import checkpoint_options
from nodeworker.domain.checkpoint_options import FRESH, INTERVAL, REQUIRE_RESTORE, InvalidWishError
from woodfrog.protocol.durations import InvalidAmountError, parse_bytes, parse_interval

OCI_VERSION = "1.0.2"
_SHM_BYTES = 64 * 1024 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
_MASKED_PATHS = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
_READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_RESERVED_DESTINATIONS = ("/proc", "/sys", "/dev")
_RESERVED_ANNOTATIONS = ("io.kubernetes.", "org.criu.")
"""By which an engine tells of the container, and runc finds CRIU's configuration."""
_ANNOTATION_NAME = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_DOCKER_BYTES = re.compile(r"(\d{1,12})([bkmg])", re.ASCII | re.IGNORECASE)
_DOCKER_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LEAST_MEMORY_BYTES = 6 << 20
"""Docker's; below it not even runc's own process finds room."""


class BadInputError(ValueError):
    """Something on the command line cannot be done as written; ``field`` names the option."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}")


class BindMount(msgspec.Struct, frozen=True):
    """A directory or file of the host that the container sees at ``destination``. Never part of a snapshot."""

    source: str
    destination: str
    read_only: bool = False


class ContainerSpec(msgspec.Struct, frozen=True):
    """What `woodfrog run` was asked for, checked."""

    args: tuple[str, ...]
    hostname: str
    image: str
    """What stands for the image's name in the container's facts: the path of the root filesystem below the layer."""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[BindMount, ...] = ()
    interval: str | None = None
    """How often it is to be dumped while it runs, as somebody wrote it: ``30s``."""
    require_restore: bool = False
    """Whether it may not start cold while the id has snapshots."""
    fresh: str = ""
    """That it is to start without its past, as the annotation wants it."""
    annotations: tuple[tuple[str, str], ...] = ()
    memory_bytes: int | None = None
    """How much memory it may have; None for as much as there is."""
    hidden: tuple[str, ...] = ()
    """Directories of the host that the container must not see through its root filesystem."""


def parse_mount(text: str) -> BindMount:
    """Read ``type=bind,src=/a,dst=/b[,ro]`` or ``/a:/b[:ro]``.

    Raises:
        BadInputError: naming ``--mount`` and what is wrong; the source must exist.
    """
    source, destination, read_only = (
        _mount_fields(text) if "=" in text.split(":", maxsplit=1)[0] else _mount_columns(text)
    )
    if not source.startswith("/"):
        raise BadInputError("--mount", f"the source {source!r} in {text!r} is not an absolute path")
    if not destination.startswith("/") or ".." in destination.split("/"):
        raise BadInputError(
            "--mount", f"the destination {destination!r} in {text!r} is not an absolute path without '..'"
        )
    destination = "/" + os.path.normpath(destination).lstrip("/")
    if destination == "/":
        raise BadInputError("--mount", "the destination may not be '/'; use --rootfs for another root filesystem")
    for reserved in _RESERVED_DESTINATIONS:
        if (destination == reserved or destination.startswith(f"{reserved}/")) and destination != "/dev/shm":
            raise BadInputError(
                "--mount", f"the destination {destination!r} lies in {reserved}, which is the container's own"
            )
    if not Path(source).exists():
        raise BadInputError("--mount", f"the source {source!r} does not exist")
    return BindMount(source=source, destination=destination, read_only=read_only)


def _mount_fields(text: str) -> tuple[str, str, bool]:
    """Read the long form, as docker's ``--mount``."""
    source = destination = ""
    read_only = False
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if name == "type":
            if value != "bind":
                raise BadInputError("--mount", f"type {value!r} is not supported; only 'bind' is")
        elif name in {"src", "source"}:
            source = value
        elif name in {"dst", "destination", "target"}:
            destination = value
        elif name in {"ro", "readonly"} and (not equals or value in {"true", "false"}):
            read_only = value != "false"
        else:
            raise BadInputError("--mount", f"{item!r} in {text!r} is not one of type=bind, src=, dst=, ro")
    if not source or not destination:
        raise BadInputError("--mount", f"{text!r} needs both src= and dst=")
    return source, destination, read_only


def _mount_columns(text: str) -> tuple[str, str, bool]:
    """Read the short form, as docker's ``-v``."""
    parts = text.split(":")
    if len(parts) not in {2, 3} or (len(parts) == 3 and parts[2] not in {"ro", "rw"}):
        raise BadInputError("--mount", f"{text!r} is neither SRC:DST[:ro] nor type=bind,src=SRC,dst=DST[,ro]")
    return parts[0], parts[1], len(parts) == 3 and parts[2] == "ro"


def parse_env(text: str, reserved: str) -> tuple[str, str]:
    """Read ``K=V``. ``reserved`` is the variable that carries the id and is set by ``--id`` alone.

    Raises:
        BadInputError: naming ``--env`` and what is wrong.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInputError("--env", f"{text!r} is not NAME=VALUE")
    if not _VARIABLE_NAME.fullmatch(name):
        raise BadInputError("--env", f"{name!r} is not a variable's name (letters, digits and '_', no digit first)")
    if name == reserved:
        raise BadInputError("--env", f"{name} is what --id sets; leave it out")
    return name, value


def parse_annotation(text: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``.

    Raises:
        BadInputError: naming ``--annotation`` and what is wrong.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInputError("--annotation", f"{text!r} is not KEY=VALUE")
    if not _ANNOTATION_NAME.fullmatch(name):
        raise BadInputError("--annotation", f"{name!r} is not an annotation's key, such as woodfrog.io/on-stop")
    if name.startswith(_RESERVED_ANNOTATIONS):
        raise BadInputError("--annotation", f"{name} is set by `woodfrog run` itself")
    if name.startswith("woodfrog.io/") and name not in checkpoint_options.ANNOTATIONS:
        raise BadInputError(
            "--annotation",
            f"{name} is none of Woodfrog's annotations: {', '.join(sorted(checkpoint_options.ANNOTATIONS))}",
        )
    try:
        checkpoint_options.read({name: value})
    except InvalidWishError as problem:
        raise BadInputError("--annotation", str(problem)) from problem
    return name, value


def check_annotations(annotations: tuple[tuple[str, str], ...], taken: dict[str, str]) -> None:
    """Refuse a key that is given twice, or that an option sets; ``taken`` says which options were given, by their keys.

    Raises:
        BadInputError: naming ``--annotation`` and the key.
    """
    seen: set[str] = set()
    for name, _ in annotations:
        if name in seen:
            raise BadInputError("--annotation", f"{name} is given twice")
        if name in taken:
            raise BadInputError("--annotation", f"{name} is what {taken[name]} sets; give one of the two")
        seen.add(name)


def parse_memory(text: str) -> int:
    """Read an amount of memory, ``512MiB`` or, as docker has it, ``512m``.

    Raises:
        BadInputError: naming ``--memory``.
    """
    if docker := _DOCKER_BYTES.fullmatch(text):
        amount = int(docker[1]) * _DOCKER_UNITS[docker[2].lower()]
    else:
        try:
            amount = parse_bytes(text)
        except InvalidAmountError as problem:
            raise BadInputError("--memory", f"{problem}, nor 512m or 2g") from problem
    if amount < _LEAST_MEMORY_BYTES:
        raise BadInputError("--memory", f"{text!r} is less than a container needs to start, 6 MiB")
    return amount


def check_interval(text: str) -> str:
    """Return ``text`` if it says how often to dump.

    Raises:
        BadInputError: naming ``--interval``.
    """
    try:
        parse_interval(text)
    except InvalidAmountError as problem:
        raise BadInputError("--interval", str(problem)) from problem
    return text


def check_distinct(mounts: tuple[BindMount, ...]) -> None:
    """Refuse two mounts at one place.

    Raises:
        BadInputError: naming ``--mount`` and the destination.
    """
    seen: set[str] = set()
    for mount in mounts:
        if mount.destination in seen:
            raise BadInputError("--mount", f"two mounts have the destination {mount.destination!r}")
        seen.add(mount.destination)


def check_hostname(text: str) -> str:
    """Return ``text`` if it may be the container's hostname (RFC 1123 §2.1).

    Raises:
        BadInputError: naming ``--name``.
    """
    if not _HOSTNAME.fullmatch(text):
        raise BadInputError(
            "--name", f"{text!r} is not a host name: 1 to 63 letters, digits and '-', alphanumeric at the ends"
        )
    return text


def hostname_from(checkpoint_id: str) -> str:
    """Derive a hostname from an id, which may hold dots and underscores and be longer."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", checkpoint_id)[:63].strip("-")
    return name or "woodfrog"


def oci_config(
    spec: ContainerSpec, *, root: Path, network: Path, id_variable: str, checkpoint_id: str, cgroup: str
) -> dict[str, Any]:
    """Build config.json. ``root`` is the mounted overlay, ``cgroup`` the container's path below every controller.

    ``network`` is a network namespace made beforehand, as a pod's is: runc restores into a namespace of its own making with
    the loopback interface down, where a server that listened on 127.0.0.1 could not be brought back.
    """
    env = {"PATH": _PATH, "HOME": "/root", "HOSTNAME": spec.hostname, **dict(spec.env), id_variable: checkpoint_id}
    own_shm = any(mount.destination == "/dev/shm" for mount in spec.mounts)
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(spec.args),
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        },
        "root": {"path": str(root), "readonly": False},
        "hostname": spec.hostname,
        "mounts": [*_system_mounts(own_shm=own_shm), *(_bind(mount) for mount in spec.mounts)],
        "annotations": {
            **dict(spec.annotations),
            "io.kubernetes.cri.image-name": spec.image,
            **({INTERVAL: spec.interval} if spec.interval is not None else {}),
            **({REQUIRE_RESTORE: "true"} if spec.require_restore else {}),
            **({FRESH: spec.fresh} if spec.fresh else {}),
        },
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                *({"type": kind} for kind in ("pid", "mount", "uts", "ipc")),
                {"type": "network", "path": str(network)},
            ],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                **({"memory": {"limit": spec.memory_bytes}} if spec.memory_bytes is not None else {}),
            },
            "maskedPaths": [*_MASKED_PATHS, *spec.hidden],
            "readonlyPaths": _READONLY_PATHS,
        },
    }


def _system_mounts(*, own_shm: bool) -> list[dict[str, Any]]:
    """List the mounts that every container gets; no cgroup mount, which would tie the snapshot to a cgroup version."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _tmpfs("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/mqueue",
            "type": "mqueue",
            "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]
    if not own_shm:
        mounts.append(_tmpfs("/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", f"size={_SHM_BYTES}"))
    return mounts


def _tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def _bind(mount: BindMount) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if mount.read_only else "rw"]
    return {"destination": mount.destination, "type": "bind", "source": mount.source, "options": options}


def write_config(bundle: Path, config: dict[str, Any]) -> None:
    """Write config.json into ``bundle``, readable for root only: the environment may hold secrets."""
    path = bundle / "config.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
