"""What ``make gpu`` leaves behind: which machine it was, what passed, and the seconds of each step beside the bare ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Steps(TypedDict):
    """One dump and restore of so many bytes on a GPU."""

    gpu_bytes: int
    lock_seconds: float
    checkpoint_seconds: float
    criu_seconds: float
    """Freezing, CRIU and copying files: what a container without a GPU takes as well."""
    restore_seconds: float
    unlock_seconds: float
    bare_seconds: float | None
    """The driver's four steps done by hand on a process with as many bytes, without a container."""


def gpu_seconds(steps: Steps) -> float:
    """The four steps together."""
    return steps["lock_seconds"] + steps["checkpoint_seconds"] + steps["restore_seconds"] + steps["unlock_seconds"]


def fixed_seconds(runs: Sequence[Steps]) -> float | None:
    """The cost that does not grow with bytes: where the line through the runs meets zero bytes; needs two sizes."""
    sizes = [run["gpu_bytes"] for run in runs]
    if len(set(sizes)) < 2:
        return None
    seconds = [gpu_seconds(run) for run in runs]
    mean_size, mean_seconds = sum(sizes) / len(sizes), sum(seconds) / len(seconds)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    slope = sum((size - mean_size) * (took - mean_seconds) for size, took in zip(sizes, seconds, strict=True)) / spread
    return mean_seconds - slope * mean_size


def table(machine: Mapping[str, Any], runs: Sequence[Steps]) -> str:
    """The table of docs/gpu.md."""
    names = ("GPU, driver", "GPU bytes", "lock s", "checkpoint s", "CRIU s", "restore s", "unlock s", "GB/s", "bare s")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for run in runs:
        moved = 2 * run["gpu_bytes"] / (run["checkpoint_seconds"] + run["restore_seconds"]) / 1e9
        bare = "-" if run["bare_seconds"] is None else f"{run['bare_seconds']:.2f}"
        cells = [f"{machine['model']}, {machine['driver']}", f"{run['gpu_bytes'] / 2**30:.2f} GiB"]
        cells += [f"{run[name]:.3f}" for name in ("lock_seconds", "checkpoint_seconds", "criu_seconds")]
        cells += [f"{run['restore_seconds']:.3f}", f"{run['unlock_seconds']:.3f}", f"{moved:.2f}", bare]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
