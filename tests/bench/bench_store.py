"""How long storing and fetching 1 GiB of process memory takes, beside tar and zstd on the same disk.

Ours hashes every chunk, syncs every object, and reads it back from the disk before it counts as stored; fetching proves
every chunk. ``tar | zstd -1 -T0`` does none of that, and is what people do by hand. Both begin with the images in the page
cache, as they are after a dump, and with an idle disk. Run: ``python tests/bench/bench_store.py [RUNS] [DIRECTORY]``.

The images: ``pages-1.img`` of 1020 MiB, made as ``memory.py`` says, and ninety small files.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nodeworker.capture.trees import list_tree
from nodeworker.store import ManifestHeader, SnapshotStore
from protocol.facts import ContainerFacts, NodeFacts
from protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from protocol.manifest import TreeName
from tests.bench.memory import SEED, write_memory
from tests.bench.report import publish, row
from tests.bench.stopwatch import undo_when_ended

PAGES_BYTES = 1020 << 20
KEY = CheckpointKey("bench", "default", "memory")


def make_images(into: Path) -> None:
    """Write the images described above."""
    write_memory(into / "pages-1.img", PAGES_BYTES)
    rng = random.Random(SEED)
    for number in range(90):
        (into / f"core-{number}.img").write_bytes(rng.randbytes(rng.randint(200, 60_000)))


def _settle() -> None:
    """Let earlier writes reach the disk and let freed blocks be discarded."""
    os.sync()
    time.sleep(0.3)


def main() -> None:
    """Measure and publish."""
    undo_when_ended()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("/var/tmp")
    put: tuple[list[float], list[float]] = ([], [])
    fetch: tuple[list[float], list[float]] = ([], [])
    sizes: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(dir=where, prefix="bench-store-") as name:
        root = Path(name)
        images, archive, fetched = root / "images", root / "peer.tar.zst", root / "fetched"
        images.mkdir()
        make_images(images)
        store = SnapshotStore((root / "store").as_uri())
        now = datetime.now(UTC)
        for turn in range(runs + 1):
            snapshot = SnapshotId(f"20261123T000000Z-{turn:08x}")
            header = ManifestHeader(snapshot, KEY, IncarnationNumber(1), now, NodeFacts(), ContainerFacts())
            _settle()
            begin = time.perf_counter()
            stored = store.put(header, [list_tree(TreeName.PROCESSES, images)])
            ours_put = time.perf_counter() - begin
            _settle()
            begin = time.perf_counter()
            subprocess.run(f"tar -c -C {images} . | zstd -q -1 -T0 > {archive}", shell=True, check=True)
            peer_put = time.perf_counter() - begin
            _settle()
            begin = time.perf_counter()
            manifest = store.open_manifest(KEY, snapshot, stored.manifest_digest)
            store.fetch_files(manifest, TreeName.PROCESSES, fetched)
            ours_fetch = time.perf_counter() - begin
            if turn == 0:
                subprocess.run(["diff", "-r", images, fetched], check=True)
            shutil.rmtree(fetched)
            fetched.mkdir()
            _settle()
            begin = time.perf_counter()
            subprocess.run(f"zstd -q -dc {archive} | tar -x -C {fetched}", shell=True, check=True)
            peer_fetch = time.perf_counter() - begin
            shutil.rmtree(fetched)
            if turn:  # the first turn warms caches up
                put[0].append(ours_put)
                put[1].append(peer_put)
                fetch[0].append(ours_fetch)
                fetch[1].append(peer_fetch)
                sizes[0].append(stored.stored_bytes / (1 << 20))
                sizes[1].append(archive.stat().st_size / (1 << 20))
            store.discard(KEY, snapshot)
            archive.unlink()
    publish(
        "store",
        [
            row("store 1 GiB: durable, read back, checked", "s", *put, peer_name="tar -c | zstd -1 -T0 > file"),
            row("fetch 1 GiB: every chunk checked", "s", *fetch, peer_name="zstd -dc | tar -x"),
            row("size in the store", "MiB", *sizes, peer_name="the peer's file", goal="<= 1.05"),
        ],
    )


if __name__ == "__main__":
    main()
