"""The verbs that look into a snapshot in the store: what is in it, and a copy of it for other tools.

The log says which snapshot it is and vouches for its manifest; the store is read from here, so it must be within reach: the one of
``woodfrog dev``, or what ``WOODFROG_STORE_URL`` and ``WOODFROG_STORE_KEY_FILE`` name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from controlplane import describe
from nodeworker.store import KeyRing, SnapshotStore
from nodeworker.store.archive import ArchiveWriter
from woodfrog import client
from woodfrog.cli import progress
from woodfrog.cli.context import reach_of
from woodfrog.cli.options import Namespace, Output, StateDir, telling
from woodfrog.dev_state import StateDirectory, default_state_dir
from woodfrog.local import dev
from woodfrog.output import Column, Form, put_json, table
from woodfrog.protocol import amounts
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, SnapshotId, check_id
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree
from woodfrog.service.data_keys import DataKeyError, Recipient, Unwrapper, purpose

SnapshotName = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="The snapshot, as `woodfrog get snapshots` names it.")
]
OfId = Annotated[
    str | None, typer.Option("--id", help="Its checkpoint id; needed where the log holds very many snapshots.")
]
_LARGEST: Final = 10


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (inspect, export):
        app.command()(verb)


@contextmanager
def opened(
    snapshot: str, namespace: str, checkpoint_id: str | None, state_dir: Path | None
) -> Iterator[tuple[SnapshotStore, Manifest]]:
    """Open the store and read the manifest of a snapshot that the log knows.

    Raises:
        FailureError: ``unknown-snapshot``, ``snapshot-not-stored``, or why the store cannot be read.
    """
    reach = reach_of(state_dir)
    check_id(snapshot, "snapshot")
    key = CheckpointKey.checked(reach.cluster, namespace, checkpoint_id) if checkpoint_id is not None else None
    rows = client.view(reach, "checkpoint_history", key)
    row = next((row for row in rows if row["snapshot_id"] == snapshot and row["namespace"] == namespace), None)
    if row is None:
        advice = "`woodfrog get snapshots` lists them; a namespace is named with -n."
        raise FailureError(Failure("unknown-snapshot", f"the log knows no snapshot {snapshot}", advice))
    if row["manifest_digest"] is None or row["status"] == "deleted":
        cause = f"snapshot {snapshot} is {row['status']}: there is nothing of it in the store"
        raise FailureError(Failure("snapshot-not-stored", cause, "Choose one that is valid or superseded."))
    store = store_of(state_dir)
    of = CheckpointKey.checked(row["cluster"], row["namespace"], row["id"])
    _unlock(store, of, SnapshotId(snapshot))
    yield store, store.open_manifest(of, SnapshotId(snapshot), row["manifest_digest"])


def _unlock(store: SnapshotStore, of: CheckpointKey, snapshot: SnapshotId) -> None:
    """Take the key of a snapshot that has one of its own, where the control planes' private keys are at hand."""
    wrapped, file = store.locked(of, snapshot), os.environ.get("WOODFROG_DATA_KEY_FILE")
    if not wrapped or not file:
        return
    try:
        store.unlock(of, snapshot, Unwrapper.from_file(Path(file)).unwrap(wrapped, purpose(of, snapshot)))
    except DataKeyError as problem:
        raise FailureError(Failure("data-key-unusable", str(problem), "Correct WOODFROG_DATA_KEY_FILE.")) from problem


def store_of(state_dir: Path | None) -> SnapshotStore:
    """Open the store that snapshots are read from and imported into.

    Raises:
        FailureError: ``store-url``, ``store-key-unusable``, ``data-key-unusable``, or there is no stack.
    """
    url = os.environ.get("WOODFROG_STORE_URL")
    if state_dir is not None or not url:
        url = Path(StateDirectory(state_dir or default_state_dir()).described().store).as_uri()
    file = os.environ.get("WOODFROG_STORE_KEY_FILE")
    keys = KeyRing.from_file(Path(file)) if file else None
    try:
        return SnapshotStore(url, keys=keys, recipient=_recipient())
    except ValueError as problem:
        raise FailureError(Failure("store-url", str(problem), "Correct WOODFROG_STORE_URL.")) from problem


def _recipient() -> Recipient | None:
    """Read for whom the keys of snapshots are wrapped, where they have keys of their own."""
    file = os.environ.get("WOODFROG_DATA_KEY_RECIPIENT_FILE")
    try:
        return Recipient.from_file(Path(file)) if file else None
    except DataKeyError as problem:
        advice = "Correct WOODFROG_DATA_KEY_RECIPIENT_FILE."
        raise FailureError(Failure("data-key-unusable", str(problem), advice)) from problem


def inspect(
    snapshot: SnapshotName,
    checkpoint_id: OfId = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Show what is in a snapshot: where it was taken, its trees, its largest files."""
    with telling(), opened(snapshot, namespace, checkpoint_id, state_dir) as (_, manifest):
        told = described(manifest)
        if output is Form.JSON:
            put_json(told)
        else:
            sys.stdout.write(_text(told))


def export(
    snapshot: SnapshotName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write, a tar file.")],
    checkpoint_id: OfId = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Write a snapshot as a checkpoint archive, which `checkpointctl` and `woodfrog import` read. It holds the memory of processes."""
    with telling(), opened(snapshot, namespace, checkpoint_id, state_dir) as (store, manifest):
        try:
            with store.reader(manifest) as reader:
                writer = ArchiveWriter(manifest, reader)
                with progress.said("exporting", lambda: writer.done_bytes, file_bytes(manifest)):
                    writer.write(file.absolute())
        except OSError as problem:
            cause = f"{file} cannot be written: {problem.strerror or problem}"
            raise FailureError(
                Failure("export-failed", cause, "Name a file in a directory with enough room.")
            ) from problem
        size = file.stat().st_size
        if output is Form.JSON:
            told = {"snapshot_id": manifest.snapshot_id, "file": str(file.absolute()), "bytes": size}
            put_json(told | {"digest": writer.digest})
        else:
            sys.stdout.write(f"{manifest.snapshot_id} is exported to {file} ({amounts.size(size)})\n")
            sys.stdout.write(f"digest: {writer.digest}\n")


def file_bytes(manifest: Manifest) -> int:
    """Sum the sizes of all files of a snapshot, holes included."""
    return sum(entry.size_bytes for tree in manifest.trees for entry in tree.entries if entry.hardlink is None)


def described(manifest: Manifest) -> dict[str, Any]:
    """Say what a manifest says, without its lists of chunks."""
    files = [(tree, entry) for tree in manifest.trees for entry in tree.entries if entry.kind == "file"]
    largest = sorted(files, key=lambda each: each[1].size_bytes, reverse=True)[:_LARGEST]
    return {
        "snapshot_id": manifest.snapshot_id,
        "cluster": manifest.key.cluster,
        "namespace": manifest.key.namespace,
        "id": manifest.key.id,
        "incarnation": manifest.incarnation,
        "taken_at": manifest.taken_at,
        "taken_on": manifest.node_facts,
        "taken_from": manifest.container_facts,
        "stored_bytes": sum(pack.bytes for pack in manifest.packs),
        "packs": len(manifest.packs),
        "trees": [_tree(manifest, tree) for tree in manifest.trees],
        "largest_files": [
            {"tree": shown_tree(tree), "path": entry.path, "raw_bytes": entry.size_bytes, "stored_bytes": stored}
            for tree, entry in largest
            for stored in (_stored_bytes(manifest, [entry]),)
        ],
        "stopped_pids": manifest.stopped_pids,
        "warnings": manifest.warnings,
    }


def shown_tree(tree: Tree) -> str:
    """Name a tree as the verbs show it."""
    return f"{tree.name.value} {tree.volume}".rstrip()


def _tree(manifest: Manifest, tree: Tree) -> dict[str, Any]:
    counted = [entry for entry in tree.entries if entry.kind == "file"]
    return {
        "tree": shown_tree(tree),
        "entries": len(tree.entries),
        "deleted": sum(entry.kind == "whiteout" for entry in tree.entries),
        "raw_bytes": sum(entry.size_bytes for entry in counted),
        "stored_bytes": _stored_bytes(manifest, counted),
    }


def _stored_bytes(manifest: Manifest, entries: list[Entry]) -> int:
    """Sum what is stored of these files, each chunk once."""
    wanted = {index for entry in entries for index in entry.chunks if index != HOLE}
    return sum(manifest.chunks[index].stored_bytes for index in wanted)


def _columns(*names: str) -> tuple[Column, ...]:
    def cell(name: str, row: dict[str, Any]) -> Any:
        return amounts.size(row[name]) if name.endswith("_bytes") else row[name]

    return tuple((name.replace("_", " ").upper(), lambda row, name=name: cell(name, row)) for name in names)


def _gpu(taken_on: NodeFacts, uuid: str) -> str:
    return next((gpu.model for gpu in taken_on.gpus if gpu.uuid == uuid and gpu.model), "of an unknown model")


def _text(told: dict[str, Any]) -> str:
    on, source = told["taken_on"], told["taken_from"]
    lines = [
        f"{told['snapshot_id']} of {told['cluster']}/{told['namespace']}/{told['id']}, incarnation {told['incarnation']}",
        f"taken {describe.moment(told['taken_at'].isoformat())} from {source.image or 'an unknown image'}",
        f"on {on.architecture or '?'}, kernel {on.kernel_release or '?'}, CRIU {on.criu_version or '?'}, runc {on.runc_version or '?'}",
        *(f"GPU {uuid}, {_gpu(on, uuid)}, NVIDIA driver {on.gpu_driver or '?'}" for uuid in source.gpus or ()),
        f"{amounts.size(told['stored_bytes'])} in {told['packs']} pack{'s' * (told['packs'] != 1)}",
        *(f"warning: {warning}" for warning in told["warnings"]),
        "",
        table(told["trees"], _columns("tree", "entries", "deleted", "raw_bytes", "stored_bytes")),
    ]
    if told["largest_files"]:
        lines += ["", table(told["largest_files"], _columns("tree", "path", "raw_bytes", "stored_bytes"))]
    return "\n".join(lines) + "\n"
