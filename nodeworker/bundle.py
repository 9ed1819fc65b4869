"""What a live bundle says about its container: the only place from which mounts, images and names are ever taken.

A snapshot is hostile input and may not say where anything goes; the bundle's config.json was written by the container
engine for exactly this start. Sources: the OCI runtime specification (config.md) and the annotations of containerd's CRI
plugin (pkg/cri/annotations) and of CRI-O (pkg/annotations).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from protocol.durations import InvalidAmountError, parse_interval
from protocol.facts import ContainerFacts
from protocol.failures import Failure, FailureError

_NAMESPACE = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri-o.Namespace", "io.kubernetes.pod.namespace")
_POD = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.cri-o.KubeName", "io.kubernetes.pod.name")
_POD_UID = ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid")
_IMAGE = ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
INTERVAL = "woodfrog.io/interval"
"""Annotation: how often the container is to be dumped while it runs, e.g. ``10m``, or ``off``."""
_SHM = "/dev/shm"


class Bundle(msgspec.Struct, frozen=True):
    """What matters here of one config.json. ``namespace`` is None where the engine names none."""

    rootfs: Path
    namespace: str | None
    facts: ContainerFacts
    shm_source: Path | None
    """The directory outside that is mounted at /dev/shm; None if the container has a tmpfs of its own, or none."""
    names: dict[str, str] = {}
    """``hostname`` and ``domainname``, as far as the container gets its own."""
    uts_namespace: Path | None = None
    """The UTS namespace that it joins, as the containers of a pod do; its names are in force."""


def read(folder: str) -> Bundle:
    """Read ``folder``/config.json.

    Raises:
        FailureError: ``bundle-unreadable``, if it is missing or is not what the specification says; ``invalid-interval``.
    """
    path = Path(folder)
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_bytes())
        annotations: dict[str, str] = config.get("annotations") or {}
        mounts: list[dict[str, Any]] = config.get("mounts") or []
        interval = annotations.get(INTERVAL)
        namespaces = (config.get("linux") or {}).get("namespaces") or []
        uts = next((one for one in namespaces if one.get("type") == "uts"), None)
        return Bundle(
            rootfs=path / config["root"]["path"],
            namespace=_first(annotations, _NAMESPACE),
            facts=ContainerFacts(
                image=_first(annotations, _IMAGE),
                mounts=tuple(sorted(mount["destination"] for mount in mounts)),
                interval_seconds=None if interval is None else parse_interval(interval),
                pod=_first(annotations, _POD),
                pod_uid=_first(annotations, _POD_UID),
            ),
            shm_source=next(
                (_bound(path, mount) for mount in mounts if mount["destination"].rstrip("/") == _SHM), None
            ),
            names=_names(config) if uts is not None else {},
            uts_namespace=Path(uts["path"]) if uts is not None and uts.get("path") else None,
        )
    except InvalidAmountError as problem:
        raise FailureError(
            Failure(
                "invalid-interval",
                f"the annotation {INTERVAL} cannot be meant: {problem}",
                "Correct it where the container is declared and create it again.",
            )
        ) from problem
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise FailureError(
            Failure(
                "bundle-unreadable",
                f"{folder}/config.json cannot be read: {problem!r}",
                "The container engine writes it before each create; look at its log.",
            )
        ) from problem


def _first(annotations: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((annotations[name] for name in names if annotations.get(name)), None)


def _names(config: dict[str, Any]) -> dict[str, str]:
    given = {name: config.get(name) for name in ("hostname", "domainname")}
    return {name: value for name, value in given.items() if isinstance(value, str) and value}


def _bound(bundle: Path, mount: dict[str, Any]) -> Path | None:
    is_bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or ())
    return bundle / mount["source"] if is_bind else None
