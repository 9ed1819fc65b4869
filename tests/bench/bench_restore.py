"""How long a restored container takes until it runs, through the whole stack, beside a bare ``runc restore``.

Ours is the runtime's ``create`` and ``start``, as an engine calls them: the worker is asked, the control plane decides, every
byte is proved, the writable layer is applied, runc and CRIU restore, and the processes are let go. The peer's images lie
ready on the disk and its files are in place; nobody decides or proves anything. Both turns begin with warm caches, and each ends
only when the container was seen to go on.

In the first two rows the node has a copy of the snapshot: it took the dump, or was told to lay it ready. In the last one it has
none, and the images are fetched from the store and decompressed.

Run: ``python tests/bench/bench_restore.py [RUNS]``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.node import Node

from tests.bench.memory import write_memory
from tests.bench.report import Row, publish, row
from tests.bench.rig import PYTHON, Measured, bench_node, fetch_images, settle, stop_with_dump

SHELL = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.02; done"
MEMORY_BYTES = 256 << 20
HOLDER = """
import sys, time
held = bytearray(open(sys.argv[1], "rb").read())
count = 0
while True:
    count += 1
    open("/count", "w").write(str(count))
    time.sleep(0.02)
"""


def compare(node: Node, name: str, checkpoint_id: str, command: str, runs: int, *, fetched: bool = False) -> Row:
    """Dump one container and restore it again and again, by turns; ``fetched`` means that the node has no copy."""
    first = Measured(node, command, checkpoint_id)
    first.run()
    first.until_it_runs()
    stop_with_dump(first)
    layer, images = node.folder / f"{checkpoint_id}-layer", node.folder / f"{checkpoint_id}-images"
    shutil.copytree(first.upper, layer, symlinks=True)
    first.remove()
    fetch_images(node, checkpoint_id, images)

    def ours() -> float:
        container = Measured(node, command, checkpoint_id)
        copy = node.state / "copies" / "local" / "default" / checkpoint_id
        assert copy.is_dir(), "the node has no copy"
        if fetched:
            shutil.rmtree(copy)
        settle()
        seconds = container.create_and_start()
        assert container.restored_from, "it began anew"
        container.until_it_runs()
        container.remove()
        return seconds

    def bare() -> float:
        container = Measured(node, command, None)
        container.take_files_of(layer)
        settle()
        seconds = container.bare_restore(images)
        container.until_it_runs()
        container.remove()
        return seconds

    sides: list[tuple[list[float], Callable[[], float]]] = [([], ours), ([], bare)]
    took = [seconds for seconds, _ in sides]
    for turn in range(runs + 1):
        for seconds, restore in sides:
            seconds.append(restore())
        if turn == 0:  # the first turn warms caches up
            for seconds in took:
                seconds.clear()
        sides.reverse()
    return row(name, "s", *took, peer_name="runc restore", goal="<= 3" if fetched else "<= 1.5")


def main() -> None:
    """Measure and publish."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with bench_node() as node:
        source = node.folder / "memory"
        write_memory(source, MEMORY_BYTES)
        script = node.folder / "holder.py"
        script.write_text(HOLDER)
        holder = f"exec {PYTHON} -I -S {script} {source}"
        rows = [
            compare(node, "create to running: small shell", "shell", SHELL, runs),
            compare(node, "create to running: Python with 256 MiB", "memory", holder, runs),
            compare(node, "the same, fetched from the store", "fetched", holder, runs, fetched=True),
        ]
    publish("restore", rows)


if __name__ == "__main__":
    main()
