"""What the benchmarks of dumps and restores stand on: one node with everything real, and bare runc beside it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from blake3 import blake3
from support.lone_runtime import Container, eventually
from support.node import Node, running_node

from nodeworker.store import SnapshotStore
from tests.bench.stopwatch import run_timed, undo_when_ended
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.manifest import TreeName

PYTHON = Path(sys.executable).resolve()
BARE_FLAGS = ("--ext-unix-sk", "--file-locks")


@contextmanager
def bench_node() -> Iterator[Node]:
    """A node whose worker runs; what it said is shown only if the benchmark fails."""
    said = io.StringIO()
    undo_when_ended()
    try:
        with redirect_stdout(said), running_node() as node:
            node.start_worker()
            yield node
    except BaseException:
        sys.stderr.write(said.getvalue()[-8000:])
        raise


def settle() -> None:
    """Let earlier writes reach the disk, freed blocks be discarded, and everybody's background work end."""
    os.sync()
    time.sleep(0.3)


class Measured(Container):
    """A container whose life is timed; ``checkpoint_id=None`` is one that Woodfrog has nothing to do with."""

    def __init__(self, node: Node, command: str, checkpoint_id: str | None) -> None:
        super().__init__(node.runtime, command, checkpoint_id=checkpoint_id)
        self.node = node
        node.runtime.containers.append(self)

    @property
    def _standard(self) -> dict[str, int]:
        return {"stdout": self._outputs[0][1], "stderr": self._outputs[1][1]}

    def create_and_start(self) -> float:
        """Call the runtime as an engine does; answers the seconds until the container runs."""
        create = ("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), self.id)
        seconds = run_timed(self.arguments(*create), **self._standard)
        return seconds + run_timed(self.arguments("start", self.id))

    def bare_restore(self, images: Path) -> float:
        """Restore by runc alone, running at once; answers the seconds that it took."""
        config = self.node.runtime.config.for_restore(self.cgroup)
        self.conf.write_text(config.replace("leave-stopped\n", ""))
        spec = json.loads((self.bundle / "config.json").read_text())
        spec["annotations"]["org.criu.config"] = str(self.conf)
        (self.bundle / "config.json").write_text(json.dumps(spec))
        work = self.bundle / "work"
        work.mkdir()
        paths = ("--bundle", self.bundle, "--image-path", images, "--work-path", work)
        command = (*self._bare("restore"), "--detach", *paths, *BARE_FLAGS, self.id)
        return run_timed(command, env=self.node.runtime.runc.environment(), **self._standard)

    def bare_checkpoint(self, images: Path) -> float:
        """Dump by runc alone and leave the container running; answers the seconds that it took."""
        paths = ("--image-path", images, "--work-path", images.with_name(f"{images.name}-work"))
        command = (*self._bare("checkpoint"), "--leave-running", *paths, *BARE_FLAGS, self.id)
        return run_timed(command, env=self.node.runtime.runc.environment())

    def _bare(self, verb: str) -> tuple[str | Path, ...]:
        return (self.node.runtime.runc.binary, "--root", self.runtime.root, verb)

    def take_files_of(self, layer: Path) -> None:
        """Begin with the writable layer of another container."""
        subprocess.run(["cp", "-a", f"{layer}/.", self.upper], check=True)

    @property
    def restored_from(self) -> str:
        """The snapshot that the runtime restored it from; empty if it began anew."""
        return str(json.loads(self.marker.read_text())["restored"])

    def until_it_runs(self) -> None:
        """Wait until the container's own count goes up: proof that it is alive."""
        before = self.count()
        eventually(lambda: self.count() > before, "the container counts on", 30)

    def remove(self) -> None:
        """Kill it without a dump and remove it through the runtime, so that the worker learns of its end."""
        self.call("kill", self.id, "KILL")  # fails if it is dead, as it is after a final dump
        eventually(lambda: not self.alive(), "the container is dead")
        run_timed(self.arguments("delete", self.id))
        self.node.runtime.containers.remove(self)
        self.close()
        shutil.rmtree(self.bundle)


def stop_with_dump(container: Measured) -> None:
    """Send the stop signal, which takes the final dump, and wait until the snapshot is stored."""
    before = len(container.node.said("a snapshot is stored"))
    run_timed(container.arguments("kill", container.id, "TERM"))
    eventually(
        lambda: container.node.alive() and len(container.node.said("a snapshot is stored")) > before,
        "the final dump is stored",
        60,
    )


def fetch_images(node: Node, checkpoint_id: str, into: Path) -> None:
    """Put the images of an id's only snapshot into a directory, for runc."""
    key = CheckpointKey("local", "default", checkpoint_id)
    store = SnapshotStore((node.state / "store").as_uri())
    (manifest,) = (node.state / "store").glob(f"**/{checkpoint_id}/*/manifest.json")
    snapshot = SnapshotId(manifest.parent.name)
    opened = store.open_manifest(key, snapshot, blake3(manifest.read_bytes()).hexdigest())
    store.fetch_files(opened, TreeName.PROCESSES, into)
