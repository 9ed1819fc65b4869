"""When a snapshot is rehearsed, with what container, and what its outcome says about the snapshot.

A rehearsal restores a snapshot into a container that never runs and is then removed. Only a failure that CRIU finds in the
images counts against the snapshot. Whatever the place of the rehearsal caused (memory, time, a file that has changed since the
dump, a mount that cannot be covered) means that it was not rehearsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from woodfrog.protocol.events import RehearsalOutcome
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import PASSING_CODES, Failure

_PLACE: Final = PASSING_CODES | {
    "criu-config",
    "kernel-limit",
    "mount-propagation",
    "network-lock",
    "tcp-state",
    "user-namespace",
}
"""Besides what passes: connections, which are closed at a real start, and what is otherwise here or is there twice as long as both run."""
_UNKNOWN: Final = frozenset({"criu-failed", "criu-crashed"})
"""What is in no table may as well come from how a rehearsal differs from a start: it counts against nobody, and names the kind to add."""
NOT_REHEARSED: Final = "not-rehearsed"
"""Code of the failure that says why there was no rehearsal."""
ADVICE: Final = "Later snapshots are rehearsed as soon as it is possible; annotate the pod with `woodfrog.io/rehearse: off` to turn rehearsals off."
MARGIN_BYTES: Final = 256 << 20
"""For runc, CRIU and what they read, beside what is restored."""
_JOINED: Final = {"network": "net", "ipc": "ipc", "uts": "uts"}
_CONFIG: Final = "org.criu.config"


class Policy(StrEnum):
    """Which snapshots of a container are rehearsed."""

    FIRST = "first"
    """The first one of each image, command, and version of kernel, runc and CRIU."""
    ALWAYS = "always"
    OFF = "off"


class Verdict(msgspec.Struct, frozen=True):
    """What came of a rehearsal."""

    outcome: RehearsalOutcome
    failure: Failure | None = None
    """Of one that failed, or why there was none."""


RESTORABLE: Final = Verdict(RehearsalOutcome.RESTORABLE)


def skipped(cause: str) -> Verdict:
    """Say why a snapshot was not rehearsed."""
    return Verdict(RehearsalOutcome.NOT_REHEARSED, Failure(NOT_REHEARSED, cause, ADVICE))


def verdict_on(failure: Failure) -> Verdict:
    """Say whether a failure of the restore is the snapshot's or the place's; where that is not certain, it is the place's."""
    if failure.code == NOT_REHEARSED or failure.code in _PLACE | _UNKNOWN:
        return skipped(f"{failure.cause} ({failure.code})" if failure.code != NOT_REHEARSED else failure.cause)
    advice = f"{failure.advice} If its restore is known to work, annotate the pod with `woodfrog.io/rehearse: off`."
    cause = f"a rehearsal of its restore failed: {failure.cause} ({failure.code})"
    return Verdict(RehearsalOutcome.FAILED, Failure("unrestorable", cause, advice.strip(), failure.detail))


def kind_of(container: ContainerFacts, arguments: Iterable[str], node: NodeFacts) -> str:
    """Name what has one rehearsal under the policy ``first``."""
    image = (container.image or "", container.image_digest or "")
    where = (node.kernel_release or "", node.runc_version or "", node.criu_version or "")
    words = (*image, *where, *container.mounts, "", *arguments)
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:32]


def memory_problem(needed_bytes: int, *, limit_bytes: int, available_bytes: int, total_bytes: int) -> str | None:
    """Say why the node's memory does not allow a rehearsal, or ``None``. A tenth of it always stays free."""
    if needed_bytes > limit_bytes:
        return f"it needs {needed_bytes >> 20} MiB of memory; the node allows {limit_bytes >> 20} MiB for rehearsals"
    free_bytes = available_bytes - total_bytes // 10
    if needed_bytes > free_bytes:
        return f"it needs {needed_bytes >> 20} MiB of memory; the node has {max(0, free_bytes) >> 20} MiB to spare"
    return None


def objection_to(spec: Mapping[str, Any]) -> str | None:
    """Say why a container of this config.json is not rehearsed, or ``None``."""
    namespaces = {one.get("type"): one.get("path") for one in (spec.get("linux") or {}).get("namespaces") or []}
    if "pid" not in namespaces or namespaces["pid"]:
        return "the container shares its process ids with others"
    if any(namespaces.get(kind) for kind in ("user", "mount", "cgroup")):
        return "the container joins a namespace of another container"
    return None


def rehearsal_spec(
    spec: Mapping[str, Any], *, folder: str, cgroups_path: str, criu_config: str, pid: int
) -> dict[str, Any]:
    """Return the config.json of the rehearsal: the same container without hooks, in namespaces of process ``pid``.

    ``folder`` is where the live bundle lies.
    """
    linux = dict(spec.get("linux") or {})
    linux.pop("intelRdt", None)
    linux["cgroupsPath"] = cgroups_path
    linux["namespaces"] = [
        {**one, "path": f"/proc/{pid}/ns/{_JOINED[one['type']]}"} if one.get("path") and one["type"] in _JOINED else one
        for one in linux.get("namespaces") or []
    ]
    return {
        **{name: value for name, value in spec.items() if name != "hooks"},
        "linux": linux,
        "root": {**spec["root"], "path": _absolute(folder, spec["root"]["path"])},
        "mounts": [
            {**one, "source": _absolute(folder, one["source"])} if _is_relative_bind(one) else one
            for one in spec.get("mounts") or []
        ],
        "annotations": {**(spec.get("annotations") or {}), _CONFIG: criu_config},
    }


def _is_relative_bind(mount: Mapping[str, Any]) -> bool:
    is_bind = mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options") or ())
    return is_bind and not str(mount.get("source", "")).startswith("/")


def _absolute(folder: str, path: str) -> str:
    return path if path.startswith("/") else f"{folder}/{path}"
