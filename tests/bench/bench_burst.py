"""What a burst of stops costs, by how many containers are captured at the same time: ten Python processes of 100 MiB, stopped at once.

The peer is the same node with all ten at once, as a node without a queue would have it; the turns alternate. Measured are the
time until the last call of ``kill`` has returned (everybody is dumped and dead), the mean of all calls (how soon a container is
safe, on average), the longest that any container stood, and the time until the last snapshot is stored.

Run: ``python tests/bench/bench_burst.py [RUNS]``.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.lone_runtime import eventually
from support.node import Node

from tests.bench.memory import write_memory
from tests.bench.report import publish, row
from tests.bench.rig import PYTHON, Measured, bench_node, settle

CONTAINERS = 10
MEMORY_BYTES = 100 << 20
AT_ONCE = (1, 2, 4)
STORE_SECONDS = 120.0
HOLD = """
import os, sys, time
held = bytearray(open(sys.argv[1], "rb").read())
count, ticks = os.open("/count", os.O_CREAT | os.O_WRONLY), 0
while True:
    time.sleep(0.02)
    ticks += 1
    os.pwrite(count, str(ticks).encode(), 0)
"""


@dataclass(frozen=True)
class Burst:
    """One burst, in seconds."""

    last: float
    mean: float
    frozen: float
    stored: float


def _longest_freeze(node: Node, last: int) -> float:
    """The longest that one of the ``last`` containers stood."""
    log = sqlite3.connect(f"file:{node.control_plane.database}?mode=ro", uri=True)
    query = "SELECT freeze_seconds FROM checkpoint_history ORDER BY position DESC LIMIT ?"
    found = [seconds for (seconds,) in log.execute(query, (last,))]
    log.close()
    return max(found)


def _burst(node: Node, command: str, at_once: int, turn: int) -> Burst:
    """Start the containers, stop them all at once, and wait until everything is stored."""
    node.stop_worker()
    node.start_worker(WOODFROG_DUMPS_AT_ONCE=str(at_once), WOODFROG_COPIES="off")
    containers = [Measured(node, command, f"burst-{turn}-{at_once}-{number}") for number in range(CONTAINERS)]
    for container in containers:
        container.run()
    settle()
    before = len(node.said("a snapshot is stored"))
    began = time.perf_counter()

    def stop(container: Measured) -> float:
        done = container.call("kill", container.id, "TERM")
        assert done.returncode == 0, done.stderr
        return time.perf_counter() - began

    with ThreadPoolExecutor(CONTAINERS) as pool:
        answered = list(pool.map(stop, containers))
    eventually(lambda: len(node.said("a snapshot is stored")) >= before + CONTAINERS, "all are stored", STORE_SECONDS)
    stored = time.perf_counter() - began
    eventually(lambda: not _unreported(node, f"burst-{turn}-{at_once}-%"), "the log has all of them", STORE_SECONDS)
    frozen = _longest_freeze(node, CONTAINERS)
    for container in containers:
        container.remove()
    return Burst(max(answered), statistics.mean(answered), frozen, stored)


def _unreported(node: Node, like: str) -> bool:
    log = sqlite3.connect(f"file:{node.control_plane.database}?mode=ro", uri=True)
    query = "SELECT count(*) FROM checkpoint_history WHERE id LIKE ? AND status = 'valid'"
    ((count,),) = log.execute(query, (like,))
    log.close()
    return bool(count < CONTAINERS)


def main() -> None:
    """Measure and publish."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    bursts: dict[int, list[Burst]] = {at_once: [] for at_once in (*AT_ONCE, CONTAINERS)}
    with bench_node() as node:
        source = node.folder / "memory"
        write_memory(source, MEMORY_BYTES)
        script = node.folder / "hold.py"
        script.write_text(HOLD)
        command = f"exec {PYTHON} -I -S {script} {source}"
        for turn in range(runs + 1):
            order = list(bursts) if turn % 2 else list(reversed(bursts))
            for at_once in order:
                bursts[at_once].append(_burst(node, command, at_once, turn))
    series = {
        at_once: list(zip(*(astuple(one) for one in each[1:]), strict=True))  # the first turn warms caches up
        for at_once, each in bursts.items()
    }
    measured = ("the last is dumped", "dumped, on average", "longest frozen", "the last is stored")
    publish(
        "burst",
        [
            row(
                f"{at_once} at once: {what}",
                "s",
                series[at_once][place],
                series[CONTAINERS][place],
                peer_name="ten at once",
            )
            for place, what in enumerate(measured)
            for at_once in AT_ONCE
        ],
    )


if __name__ == "__main__":
    main()
