"""What this node offers, read from the kernel and the tools; whatever cannot be read stays unknown."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain import criu_options
from woodfrog.protocol.facts import NodeFacts

_TOOL_SECONDS: Final = 20


def probe(runc: Path, criu: Path) -> NodeFacts:
    """Read the node's facts. Blocking; takes some ten milliseconds."""
    machine = os.uname()
    model, features = _cpu(Path("/proc/cpuinfo"))
    return NodeFacts(
        architecture=machine.machine,
        kernel_release=machine.release,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        cgroup_version=cgroup_version(Path("/proc/self/mounts")),
        cpu_model=model,
        cpu_features=features,
        criu_version=_criu_version(criu),
        runc_version=_runc_version(runc),
    )


def _cpu(cpuinfo: Path) -> tuple[str | None, tuple[str, ...]]:
    """Read the first processor's model and flags; arm64 says ``Features`` where x86 says ``flags``."""
    model: str | None = None
    features: tuple[str, ...] = ()
    with suppress(OSError):
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name == "model name" and model is None:
                model = value
            elif name in {"flags", "Features"} and not features:
                features = tuple(sorted(value.split()))
    return model, features


def cgroup_version(mounts: Path) -> int | None:
    """Version 1 if its freezer is mounted (hybrid set-ups included), else 2 if that is mounted."""
    version: int | None = None
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            _, _, kind, options, *_ = line.split(" ")
            if kind == "cgroup" and "freezer" in options.split(","):
                return 1
            if kind == "cgroup2":
                version = 2
    return version


def _criu_version(criu: Path) -> str | None:
    with suppress(ValueError):
        major, minor, patch = criu_options.parse_version(_said([str(criu), "--version"]))
        return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"
    return None


def _runc_version(runc: Path) -> str | None:
    first = _said([str(runc), "--version"]).partition("\n")[0]
    return first.removeprefix("runc version ").strip() or None


def _said(command: list[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=True).stdout
    return ""
