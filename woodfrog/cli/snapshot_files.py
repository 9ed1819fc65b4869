"""The verbs that show the files of a snapshot: ``get files`` lists them, ``cat`` writes one out, ``diff`` compares two snapshots.

A snapshot may hold a million files and files larger than memory. Its manifest is in memory, as it is for a restore; rows are made one by
one as they are written, and contents pass through a chunk at a time, each proved by its digest.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from controlplane import describe
from nodeworker.store import Unpacker
from woodfrog.cli import snapshot_diff
from woodfrog.cli.options import ListOutput, Namespace, Output, StateDir, telling
from woodfrog.cli.row_stream import put_streamed
from woodfrog.cli.snapshot_contents import OfId, SnapshotName, opened, shown_tree
from woodfrog.local import dev
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Form, ListForm, put_json
from woodfrog.protocol import amounts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree, TreeName
from woodfrog.service.printable import printable

OfTree = Annotated[
    str | None,
    typer.Option(
        "--tree",
        metavar="TREE",
        help="Only this tree, as `woodfrog inspect` names it: layer, processes, shm, a volume's name.",
    ),
]
_TYPES: Final = {
    "directory": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "whiteout": stat.S_IFCHR,
}


def register(app: typer.Typer, get: typer.Typer) -> None:
    """Add the verbs; ``get`` is the group of those that list."""
    get.command("files")(files)
    app.command()(cat)
    app.command()(diff)


def files(
    snapshot: SnapshotName,
    path: Annotated[
        str | None,
        typer.Argument(metavar="[PATH]", help="Only this file, or what is below this directory.", show_default=False),
    ] = None,
    tree: OfTree = None,
    checkpoint_id: OfId = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List the files of a snapshot: what the container changed in its root filesystem, /dev/shm, volumes, CRIU's images."""
    columns = (
        ("TREE", lambda row: row["tree"]),
        ("MODE", lambda row: row["mode"]),
        ("OWNER", lambda row: f"{row['uid']}:{row['gid']}"),
        ("SIZE", lambda row: amounts.size(row["size_bytes"])),
        ("MODIFIED", lambda row: describe.moment(row["modified_at"])),
        ("PATH", _name),
    )
    with telling(), opened(snapshot, namespace, checkpoint_id, state_dir) as (_, manifest):
        trees = _trees(manifest, tree)
        below = None if path is None else path.strip("/")

        def rows() -> Iterator[dict[str, Any]]:
            for each in trees:
                for entry in each.entries:
                    if not below or entry.path == below or entry.path.startswith(f"{below}/"):
                        yield row_of(each, entry)

        put_streamed(rows, columns, output, name="path", empty="there are no such files in the snapshot")


def row_of(tree: Tree, entry: Entry) -> dict[str, Any]:
    """Say what a manifest says of one file."""
    return {
        "tree": shown_tree(tree),
        "path": entry.path,
        "kind": entry.kind,
        "mode": stat.filemode(_TYPES[entry.kind] | entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "size_bytes": entry.size_bytes,
        "modified_at": _modified(entry),
        "target": entry.target or entry.hardlink,
    }


def _modified(entry: Entry) -> str | None:
    try:
        return datetime.fromtimestamp(entry.mtime_ns // 1_000_000_000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


def _name(row: dict[str, Any]) -> str:
    if row["kind"] == "whiteout":
        return f"{row['path']} (deleted)"
    arrow = {"symlink": "->"}.get(row["kind"], "=")
    return f"{row['path']} {arrow} {row['target']}" if row["target"] else str(row["path"])


def _trees(manifest: Manifest, wanted: str | None) -> list[Tree]:
    """Find the trees that somebody means.

    Raises:
        BadInputError: the snapshot has none of that name.
    """
    if wanted is None:
        return list(manifest.trees)
    found = [tree for tree in manifest.trees if wanted in {shown_tree(tree), tree.volume}]
    if not found:
        there = ", ".join(shown_tree(tree) for tree in manifest.trees)
        raise BadInputError("--tree", f"the snapshot has no tree {wanted!r}; it has: {there}")
    return found


def cat(
    snapshot: SnapshotName,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file, as `woodfrog get files` names it.")],
    tree: Annotated[str, typer.Option("--tree", metavar="TREE", help="The tree that it is in.")] = TreeName.LAYER.value,
    checkpoint_id: OfId = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
) -> None:
    """Write the content of a file of a snapshot to standard output."""
    with telling(), opened(snapshot, namespace, checkpoint_id, state_dir) as (store, manifest):
        entry = file_of(_trees(manifest, tree)[0], path.strip("/"))
        with store.reader(manifest) as reader:
            write_content(manifest, reader, entry)


def file_of(tree: Tree, path: str) -> Entry:
    """Find a file by its path; another name of one is that one.

    Raises:
        FailureError: ``file-unknown``.
    """
    by_path = {entry.path: entry for entry in tree.entries}
    entry = by_path.get(path)
    if entry is None:
        advice = "`woodfrog get files` lists them; --tree names another tree. Only what the container changed is in its layer."
        raise FailureError(
            Failure("file-unknown", f"{path} is not in the tree {shown_tree(tree)} of the snapshot", advice)
        )
    if entry.hardlink is not None:
        entry = by_path[entry.hardlink]
    if entry.kind != "file":
        to = f" to {entry.target}" if entry.target else ""
        raise FailureError(Failure("file-unknown", f"{path} is a {entry.kind}{to}, not a file", "Name a file."))
    return entry


def write_content(manifest: Manifest, reader: Unpacker, entry: Entry) -> None:
    """Write a file's content, proved, a chunk at a time; on a terminal, what that would take for orders is escaped.

    Raises:
        FailureError: ``snapshot-corrupt``, ``snapshot-missing``.
    """
    terminal = sys.stdout.isatty()
    left = entry.size_bytes
    for index in entry.chunks:
        length = min(manifest.chunk_bytes, left)
        piece = bytes(length) if index == HOLE else bytes(reader.chunk(index))
        left -= length
        if terminal:
            sys.stdout.write(piece.decode(errors="backslashreplace"))
        else:
            sys.stdout.buffer.write(piece)
    sys.stdout.flush()


def diff(
    before: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The one before.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The one after.", show_default=False)],
    checkpoint_id: OfId = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Compare two snapshots: processes, memory, and which files were added, removed and changed."""
    with (
        telling(),
        opened(before, namespace, checkpoint_id, state_dir) as (store, old),
        opened(after, namespace, checkpoint_id, state_dir) as (other, new),
    ):
        with store.reader(old) as of_old, other.reader(new) as of_new:
            was, now = snapshot_diff.images_of(old, of_old), snapshot_diff.images_of(new, of_new)
            processes = snapshot_diff.processes(was, now, old, new)
            changed = snapshot_diff.changed_bytes(was, now, old, new)
        compared = {"before": old.snapshot_id, "after": new.snapshot_id, "processes": processes}
        compared |= {"memory": {**snapshot_diff.memory(old, new), "bytes_changed": changed}}
        if output is Form.JSON:
            put_json(compared | {"files": list(snapshot_diff.files(old, new))})
            return
        sys.stdout.write("".join(f"{printable(line)}\n" for line in snapshot_diff.sentences(compared)))
        columns = (
            ("CHANGE", lambda row: row["change"]),
            ("TREE", lambda row: row["tree"]),
            ("BEFORE", lambda row: _size(row["size_bytes_before"])),
            ("AFTER", lambda row: _size(row["size_bytes_after"])),
            ("WHAT", lambda row: ", ".join(row["what"])),
            ("PATH", lambda row: row["path"]),
        )
        put_streamed(
            lambda: snapshot_diff.files(old, new), columns, ListForm.TABLE, name="path", empty="no file differs"
        )


def _size(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else amounts.size(size_bytes)
