"""What a left-running dump of a 1 GiB process costs: how long it stands, and how long until the snapshot is safe.

How long the process stands, the process says itself: it looks at the clock every millisecond and writes every gap down. The
peer is runc on the same container, with the same CRIU configuration and the same disk, in alternating turns.

Until it is safe means, for us: from asking the control plane for a checkpoint until ``snapshot.stored`` is in the event log,
which is after every byte was synced, read back and compared. The peer dumps and then packs what it dumped, as people do by
hand; a third row lets the peer sync its archive, too.

Run: ``python tests/bench/bench_dump.py [RUNS]``.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.lone_runtime import eventually

from tests.bench.memory import write_memory
from tests.bench.report import publish, row
from tests.bench.rig import PYTHON, Measured, bench_node, settle
from woodfrog import client
from woodfrog.dev_state import Reach
from woodfrog.protocol.ids import CheckpointKey

MEMORY_BYTES = 1 << 30
KEY = CheckpointKey("local", "default", "memory")
LIMIT_SECONDS = 60.0
CLOCK = """
import os, sys, time
held = bytearray(open(sys.argv[1], "rb").read())
gaps, count = open("/gaps", "a", buffering=1), os.open("/count", os.O_CREAT | os.O_WRONLY)
ticks, last = 0, time.monotonic()
while True:
    time.sleep(0.001)
    now = time.monotonic()
    if now - last > 0.05:
        gaps.write(f"{now - last}\\n")
    last = now
    ticks += 1
    if ticks % 20 == 0:
        os.pwrite(count, str(ticks).encode(), 0)
"""


class Turns:
    """The container that both sides dump, and how often ours was stored."""

    def __init__(self, container: Measured) -> None:
        self.container = container
        self.node = container.node
        self._log = sqlite3.connect(f"file:{self.node.control_plane.database}?mode=ro", uri=True)

    def close(self) -> None:
        """Let go of the event log."""
        self._log.close()

    def _stored(self) -> int:
        count: int = self._log.execute("SELECT count(*) FROM events WHERE type = 'snapshot.stored'").fetchone()[0]
        return count

    def _gaps(self) -> list[float]:
        return [float(line) for line in (self.container.upper / "gaps").read_text().splitlines()]

    def _longest_gap(self, known: int) -> float:
        """The longest that the process stood in this turn."""
        self.container.until_it_runs()
        return max(self._gaps()[known:])

    def ours(self) -> tuple[float, float]:
        """Ask for a checkpoint; answers the seconds that the process stood and those until the snapshot was stored."""
        settle()
        before, known = self._stored(), len(self._gaps())
        began = time.perf_counter()
        client.checkpoint(Reach(self.node.nats.url, KEY.cluster), KEY, LIMIT_SECONDS)
        while self._stored() == before:
            time.sleep(0.005)
            assert time.perf_counter() < began + LIMIT_SECONDS, "the snapshot was not stored"
        return time.perf_counter() - began, self._longest_gap(known)

    def bare(self) -> tuple[float, float, float]:
        """Dump and pack by hand; answers as ours does, and in the end the seconds until the archive is on the disk, too."""
        images, archive = self.node.folder / "bare", self.node.folder / "bare.tar.zst"
        settle()
        known = len(self._gaps())
        began = time.perf_counter()
        self.container.bare_checkpoint(images)
        subprocess.run(f"tar -c -C {images} . | zstd -q -1 -T0 -o {archive}", shell=True, check=True)
        packed = time.perf_counter() - began
        subprocess.run(["sync", archive], check=True)
        durable = time.perf_counter() - began
        frozen = self._longest_gap(known)
        shutil.rmtree(images)
        archive.unlink()
        return packed, frozen, durable


def main() -> None:
    """Measure and publish."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ours, bare = [], []
    with bench_node() as node:
        source = node.folder / "memory"
        write_memory(source, MEMORY_BYTES)
        script = node.folder / "clock.py"
        script.write_text(CLOCK)
        container = Measured(node, f"exec {PYTHON} -I -S {script} {source}", KEY.id)
        container.run()
        turns = Turns(container)
        eventually((container.upper / "gaps").exists, "the container keeps the time")
        for turn in range(runs + 1):
            if turn % 2:
                ours.append(turns.ours())
                bare.append(turns.bare())
            else:
                bare.append(turns.bare())
                ours.append(turns.ours())
        turns.close()
        container.remove()
    stored, frozen = zip(*ours[1:], strict=True)  # the first turn warms caches up
    packed, bare_frozen, durable = zip(*bare[1:], strict=True)
    by_hand = "runc checkpoint; tar -c | zstd -1 -T0"
    publish(
        "dump",
        [
            row("1 GiB frozen", "s", frozen, bare_frozen, peer_name="runc checkpoint --leave-running", goal="<= 1.15"),
            row("1 GiB from asking to stored", "s", stored, packed, peer_name=by_hand, goal="<= 1.0"),
            row("the same, both on the disk", "s", stored, durable, peer_name=f"{by_hand}; sync", goal="<= 1.0"),
        ],
    )


if __name__ == "__main__":
    main()
