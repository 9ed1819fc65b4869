"""How long storing and fetching 1 GiB of process memory takes, beside tar and zstd on the same disk.

Ours hashes every chunk, syncs every object, and reads it back from the disk before it counts as stored; fetching proves
every chunk. ``tar | zstd -1 -T0`` does none of that, and is what people do by hand. Both begin with the images in the page
cache, as they are after a dump, and with an idle disk. Run: ``python tests/bench/bench_store.py [DIRECTORY] [RUNS]``.

The images: ``pages-1.img`` of 1020 MiB and ninety small files, made from a fixed seed. The pages come in runs of 64 KiB to
8 MiB: 20 % zero (touched and never filled), 35 % pointers and small integers (heap of an interpreter), 20 % text (JSON
lines), 25 % random (weights, compressed and encrypted caches).
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
from tests.bench.report import publish, row

PAGES_BYTES = 1020 << 20
KEY = CheckpointKey("bench", "default", "memory")


def _heap(size: int, rng: random.Random) -> bytes:
    """Objects as CPython lays them out: a count, a type pointer, and a few pointers or small numbers."""
    types = [0x7F3A_1C00_0000 + rng.randrange(1 << 20) * 16 for _ in range(60)]
    base = 0x7F3A_2000_0000
    words: list[int] = []
    while len(words) * 8 < size:
        words += (rng.choice((1, 1, 1, 2, 3)), rng.choice(types), rng.choice((0, 1, 2, 24, 64)))
        words += (base + rng.randrange(1 << 22) * 16, rng.randrange(1 << 14), base + (len(words) << 3))
    return b"".join(word.to_bytes(8, "little") for word in words)[:size]


def _text(size: int, rng: random.Random) -> bytes:
    """JSON lines with words, numbers and identifiers."""
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 11))) for _ in range(4000)]
    lines: list[str] = []
    length = 0
    while length < size:
        said = " ".join(rng.choices(words, k=rng.randint(4, 30)))
        lines.append(f'{{"id": "{rng.getrandbits(64):016x}", "score": {rng.random():.6f}, "text": "{said}"}}\n')
        length += len(lines[-1])
    return "".join(lines).encode()[:size]


def make_images(into: Path) -> None:
    """Write the images described above."""
    rng = random.Random(20261123)
    sources = {"heap": _heap(24 << 20, rng), "text": _text(24 << 20, rng)}
    with (into / "pages-1.img").open("wb") as pages:
        left = PAGES_BYTES
        serial = 0
        while left:
            size = min(left, rng.choice((64, 128, 256, 512, 1024, 2048, 4096, 8192)) << 10)
            kind = rng.choices(("zero", "heap", "text", "random"), (20, 35, 20, 25))[0]
            if kind == "zero":
                pages.write(bytes(size))
            elif kind == "random":
                pages.write(rng.randbytes(size))
            else:
                start = rng.randrange(len(sources[kind]) - size) & ~4095
                block = bytearray(sources[kind][start : start + size])
                for page in range(0, size, 4096):  # no two pages are the same, so that nobody gains by a repetition
                    serial += 1
                    block[page + 8 : page + 16] = (serial * 0x9E37_79B9_7F4A_7C15 & ((1 << 64) - 1)).to_bytes(
                        8, "little"
                    )
                pages.write(block)
            left -= size
    for number in range(90):
        (into / f"core-{number}.img").write_bytes(rng.randbytes(rng.randint(200, 60_000)))


def _settle() -> None:
    """Let earlier writes reach the disk and let freed blocks be discarded."""
    os.sync()
    time.sleep(0.3)


def main() -> None:
    """Measure and publish."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 7
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
