"""A key of its own for each snapshot, on a whole stack: containers go on, people can look inside, and a node's file alone reads nothing."""

from __future__ import annotations

import base64
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.data_keys import write_pair
from support.stack import Stack, running

from nodeworker.store import KeyRing, SnapshotStore
from woodfrog.protocol.failures import DATA_KEY_MISSING, FailureError
from woodfrog.protocol.ids import CheckpointKey, SnapshotId

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        keys = Path(path) / "store.keys"
        keys.write_text(base64.b64encode(os.urandom(32)).decode())
        private, public = write_pair(Path(path))
        environment = {
            "WOODFROG_STORE_KEY_FILE": str(keys),
            "WOODFROG_DATA_KEY_FILE": str(private),
            "WOODFROG_DATA_KEY_RECIPIENT_FILE": str(public),
        }
        with running(Path(path) / "s", environment) as made:
            yield made


def test_a_container_goes_on_and_only_with_its_snapshots_own_key(stack: Stack, tmp_path: Path) -> None:
    first = stack.run("counts", *COUNT)
    before = len(first.until_lines("/count", 20))
    first.stop()
    second = stack.run("counts", *COUNT)
    assert second.container["restored_from"] is not None
    counted = [int(line) for line in second.until_lines("/count", before + 10)]
    assert counted == list(range(1, len(counted) + 1))
    second.stop()

    (latest,) = [row for row in stack.json("get", "snapshots", "counts") if row["status"] == "valid"][:1]
    archive = tmp_path / "snapshot.tar"
    stack.cli("export", latest["snapshot_id"], str(archive))
    with tarfile.open(archive) as opened:
        assert "checkpoint/inventory.img" in opened.getnames()

    node = SnapshotStore(
        stack.store.as_uri(), keys=KeyRing.from_file(Path(stack.environment["WOODFROG_STORE_KEY_FILE"]))
    )
    with pytest.raises(FailureError) as refused:
        node.open_manifest(
            CheckpointKey("local", "default", "counts"), SnapshotId(latest["snapshot_id"]), latest["manifest_digest"]
        )
    assert refused.value.failure.code == DATA_KEY_MISSING
