"""Many worlds: played on all processors, and each that broke a law told with the command that plays it again."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from .world import World

STEPS = 200
_CHUNK = 100


class Broken(NamedTuple):
    """A world in which a law was broken."""

    seed: int
    step: int
    law: str

    def told(self, steps: int) -> str:
        return (
            f"seed {self.seed}, step {self.step}: {self.law}\n"
            f"play it again: python -m tests.simulation {self.seed} --steps {steps} --trace"
        )


class Played(NamedTuple):
    """What came of many worlds."""

    worlds: int
    events: int
    broken: list[Broken]
    wall_seconds: float
    cpu_seconds: float


def play(seed: int, steps: int = STEPS, *, trace: bool = False) -> tuple[World, Broken | None]:
    """Play one world; what breaks it, a law or an exception of what is tested, is told."""
    world = World(seed, trace=trace)
    try:
        world.play(steps)
    except Exception as problem:  # noqa: BLE001 - a decision that raises has broken its law, too
        return world, Broken(seed, world.step, f"{type(problem).__name__}: {problem}")
    return world, None


def _play_some(first: int, count: int, steps: int) -> tuple[int, list[Broken], float]:
    began = time.process_time()
    events, broken = 0, []
    for seed in range(first, first + count):
        world, problem = play(seed, steps)
        events += len(world.log.records)
        if problem is not None:
            broken.append(problem)
    return events, broken, time.process_time() - began


def play_many(first: int, count: int, steps: int = STEPS, *, processes: int | None = None) -> Played:
    """Play the worlds ``first`` to ``first + count - 1``."""
    began = time.monotonic()
    chunks = [(start, min(_CHUNK, first + count - start)) for start in range(first, first + count, _CHUNK)]
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        done = list(pool.map(_play_some, *zip(*((*chunk, steps) for chunk in chunks), strict=True)))
    return Played(
        count,
        sum(events for events, _, _ in done),
        [one for _, some, _ in done for one in some],
        time.monotonic() - began,
        sum(seconds for _, _, seconds in done),
    )
