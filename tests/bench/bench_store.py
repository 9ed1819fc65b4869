"""How long storing and fetching 1 GiB of process memory takes, beside tar and zstd on the same disk.

Ours hashes every chunk, syncs every object, and reads it back from the disk before it counts as stored; fetching proves
every chunk. ``tar | zstd -1 -T0`` does none of that, and is what people do by hand. Both begin with the images in the page
cache, as they are after a dump, and with an idle disk. An encrypted store and one in S3 are measured beside the plain directory:
moto's server, which takes as much processor time as the client, is no measure of a real S3, but of what our side adds. Run: ``python tests/bench/bench_store.py [RUNS] [DIRECTORY]``.

The images: ``pages-1.img`` of 1020 MiB, made as ``memory.py`` says, and ninety small files.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nodeworker.capture.trees import list_tree
from nodeworker.store import KeyRing, ManifestHeader, SnapshotStore
from nodeworker.store.capture_manifest import list_files
from nodeworker.store.comparison import difference
from nodeworker.store.encryption_keys import StoreKey
from tests.bench.memory import SEED, write_memory
from tests.bench.report import publish, row
from tests.bench.stopwatch import undo_when_ended
from tests.support.buckets import BUCKET, s3_environment
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import Manifest, TreeName

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


class Place:
    """One store, and how long each put and fetch took."""

    def __init__(self, url: str, keys: KeyRing | None = None, *, waited: bool = False) -> None:
        """What has ``waited`` is compared with a manifest that was made before, as a capture that the store refused."""
        self.store = SnapshotStore(url, keys=keys)
        self._waited = waited
        self.put: list[float] = []
        self.fetch: list[float] = []

    def turn(self, images: Path, fetched: Path, snapshot: SnapshotId, *, counts: bool) -> int:
        """Put and fetch once; tell how many bytes were stored."""
        header = ManifestHeader(snapshot, KEY, IncarnationNumber(1), datetime.now(UTC), NodeFacts(), ContainerFacts())
        trees = [list_tree(TreeName.PROCESSES, images)]
        vouched = list_files(header, trees) if self._waited else None

        def check(found: Manifest) -> None:
            assert vouched is None or difference(vouched, found) is None

        _settle()
        begin = time.perf_counter()
        stored = self.store.put(header, trees, check)
        put_seconds = time.perf_counter() - begin
        _settle()
        begin = time.perf_counter()
        manifest = self.store.open_manifest(KEY, snapshot, stored.manifest_digest)
        self.store.fetch_files(manifest, TreeName.PROCESSES, fetched)
        fetch_seconds = time.perf_counter() - begin
        if counts:
            self.put.append(put_seconds)
            self.fetch.append(fetch_seconds)
        else:
            subprocess.run(["diff", "-r", images, fetched], check=True)
        shutil.rmtree(fetched)
        self.store.discard(KEY, snapshot)
        return stored.stored_bytes


@contextmanager
def _bucket() -> Iterator[str]:
    """Serve S3 from a process of its own: moto's server, which is a Python program and holds objects in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        os.environ.update(s3_environment(f"http://127.0.0.1:{port}"))
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/bench"
    finally:
        moto.terminate()
        moto.wait(20)


def main() -> None:
    """Measure and publish."""
    undo_when_ended()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("/var/tmp")
    peer: tuple[list[float], list[float]] = ([], [])
    sizes: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(dir=where, prefix="bench-store-") as name, _bucket() as bucket:
        root = Path(name)
        images, archive, fetched = root / "images", root / "peer.tar.zst", root / "fetched"
        images.mkdir()
        make_images(images)
        plain = Place((root / "store").as_uri())
        sealed = Place((root / "sealed").as_uri(), KeyRing((StoreKey(os.urandom(32)),)))
        s3 = Place(bucket)
        waited = Place((root / "waited").as_uri(), waited=True)
        for turn in range(runs + 1):
            snapshot, counts = SnapshotId(f"20261123T000000Z-{turn:08x}"), turn > 0  # the first turn warms caches up
            stored_bytes = plain.turn(images, fetched, snapshot, counts=counts)
            _settle()
            begin = time.perf_counter()
            subprocess.run(f"tar -c -C {images} . | zstd -q -1 -T0 > {archive}", shell=True, check=True)
            peer_put = time.perf_counter() - begin
            fetched.mkdir()
            _settle()
            begin = time.perf_counter()
            subprocess.run(f"zstd -q -dc {archive} | tar -x -C {fetched}", shell=True, check=True)
            peer_fetch = time.perf_counter() - begin
            shutil.rmtree(fetched)
            for place in (waited, sealed, s3):
                place.turn(images, fetched, snapshot, counts=counts)
            if counts:
                peer[0].append(peer_put)
                peer[1].append(peer_fetch)
                sizes[0].append(stored_bytes / (1 << 20))
                sizes[1].append(archive.stat().st_size / (1 << 20))
            archive.unlink()
    publish(
        "store",
        [
            row(
                "store 1 GiB: durable, read back, checked",
                "s",
                plain.put,
                peer[0],
                peer_name="tar -c | zstd -1 -T0 > file",
            ),
            row("fetch 1 GiB: every chunk checked", "s", plain.fetch, peer[1], peer_name="zstd -dc | tar -x"),
            row(
                "store 1 GiB that has waited: compared as well",
                "s",
                waited.put,
                plain.put,
                peer_name="not compared",
                goal="<= 1.05",
            ),
            row("size in the store", "MiB", *sizes, peer_name="the peer's file", goal="<= 1.05"),
            row("store 1 GiB, encrypted", "s", sealed.put, plain.put, peer_name="not encrypted", goal="<= 1.25"),
            row("fetch 1 GiB, encrypted", "s", sealed.fetch, plain.fetch, peer_name="not encrypted", goal="<= 1.25"),
            row(
                "store 1 GiB in S3 (moto on loopback)", "s", s3.put, plain.put, peer_name="in a directory", goal="<= 10"
            ),
            row(
                "fetch 1 GiB from S3 (moto on loopback)",
                "s",
                s3.fetch,
                plain.fetch,
                peer_name="from a directory",
                goal="<= 10",
            ),
        ],
    )


if __name__ == "__main__":
    main()
