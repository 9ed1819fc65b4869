"""Two nodes: a whole ``woodfrog dev``, and a second node worker that is another node to the same control plane, with the same store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from support.stack import Stack, until

from woodfrog.dev_state import StateDirectory
from woodfrog.local.dev import CLUSTER, NAMESPACE, lay_runtime

SECOND = "second"


class SecondNode(Stack):
    """The second worker, which the verbs find as they find the first: by a state directory."""

    def __init__(self, state: Path, first: Stack) -> None:
        super().__init__(state, first.environment)
        self._first = first
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker and wait until its node is ready."""
        state = StateDirectory(self.state)
        state.make()
        runc, criu = lay_runtime(state)
        first = StateDirectory(self._first.state).described()
        described = msgspec.structs.replace(
            first,
            state_dir=first.state_dir,  # what no container may see is the same on both
            socket=str(state.run / "worker.sock"),
            runtime=str(state.runtime),
            runc_root=str(state.run / "runc"),
            containers=str(self.state / "containers"),
            spool=str(state.worker / "spool"),
            pids={},
        )
        state.describe(described)
        self.ready = msgspec.to_builtins(described)
        environment = self.environment | {
            "WOODFROG_CLUSTER": CLUSTER,
            "WOODFROG_NAMESPACE": NAMESPACE,
            "WOODFROG_NODE": SECOND,
            "WOODFROG_NATS_URL": described.nats_url,
            "WOODFROG_RECORD_DETAILS": "on",
            "WOODFROG_STATE_DIR": str(state.worker),
            "WOODFROG_RUN_DIR": str(state.run),
            "WOODFROG_STORE_URL": f"file://{described.store}",
            "WOODFROG_RUNC": str(runc),
            "WOODFROG_CRIU": str(criu),
        }
        with (state.logs / "nodeworker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "nodeworker"], stdout=log, stderr=log, env=environment
            )
        until(self._is_ready, 120, saying="the second node is ready")

    def _is_ready(self) -> bool:
        assert self._worker is not None
        assert self._worker.poll() is None, (self.state / "logs/nodeworker.log").read_text()[-4000:]
        nodes = json.loads(self.cli("get", "nodes", "-o", "json").stdout)
        return any(row["node"] == SECOND and row["status"] == "ready" for row in nodes)

    def close(self) -> None:
        """End what still runs."""
        super().close()
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(60)


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Stack, Stack]]:
    """Start both in folders of their own, which are short: a unix socket's name may have 107 bytes."""
    first = Stack(folder / "1")
    second = SecondNode(folder / "2", first)
    try:
        first.start()
        second.start()
        yield first, second
    finally:
        second.close()
        first.close()
