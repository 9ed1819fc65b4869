"""The verb ``import``: an exported snapshot becomes one of this stack's, to be chosen like any other.

First the control plane is asked whether it would take it, then every byte of the archive is proved and put into the store under the
new id, read back there and checked, and only then the control plane records it. A snapshot is given a name of its own, so that nothing
that lies in the store already is ever written over.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec.structs import replace

from nodeworker.store import ManifestHeader, SnapshotStore, Stored
from nodeworker.store.archive_reader import ArchiveReader
from woodfrog import client
from woodfrog.cli import progress
from woodfrog.cli.context import reach_of
from woodfrog.cli.import_folder import import_folder
from woodfrog.cli.options import Output, StateDir, telling
from woodfrog.cli.snapshot_commands import Because
from woodfrog.cli.snapshot_contents import file_bytes, store_of
from woodfrog.dev_state import Reach
from woodfrog.output import Form, put_json
from woodfrog.protocol import amounts
from woodfrog.protocol.failures import QUOTA, Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId, new_snapshot_id
from woodfrog.protocol.manifest import Manifest
from woodfrog.protocol.requests import ImportRequest

_REFUSALS: Final = frozenset({QUOTA, "dump-in-flight", "id-in-use", "snapshot-known"})
"""After which it is certain that nothing was recorded, so that what was put into the store can go again."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("import")(import_)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive, as `woodfrog export` wrote it.")],
    checkpoint_id: Annotated[
        str | None,
        typer.Option("--id", help="The checkpoint id that it becomes a snapshot of.", show_default="its own"),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="The namespace of that id.", show_default="its own")
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest", help="What `woodfrog export` printed: another archive is refused.", show_default=False
        ),
    ] = None,
    because: Because = "",
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Bring an exported snapshot into this store and log; the next start of its id resumes from it. Every byte is checked."""
    with telling():
        reach = reach_of(state_dir)
        with ArchiveReader(file) as archive:
            if digest is not None and digest.strip().lower() != archive.digest:
                cause = f"{file} is not the archive that was meant: its digest is {archive.digest}"
                raise FailureError(
                    Failure("archive-corrupt", cause, "Copy it again, or import the one that was meant.")
                )
            was = archive.manifest
            key = CheckpointKey.checked(
                reach.cluster,
                was.key.namespace if namespace is None else namespace,
                was.key.id if checkpoint_id is None else checkpoint_id,
            )
            request = ImportRequest(
                key=key,
                snapshot_id=new_snapshot_id(was.taken_at),
                origin=f"{was.key}/{was.snapshot_id}",
                manifest_digest="",
                raw_bytes=0,
                stored_bytes=0,
                taken_at=was.taken_at,
                taken_on=was.node_facts,
                taken_from=was.container_facts,
                because=because,
            )
            client.take_in(reach, replace(request, only_check=True))
            store = store_of(state_dir)
            request = _told(request, _stored(store, archive, key, request.snapshot_id, file))
        _recorded(reach, store, request)
        if output is Form.JSON:
            put_json(
                {"snapshot_id": request.snapshot_id, "namespace": key.namespace, "id": key.id, "origin": request.origin}
            )
        else:
            size = amounts.size(request.stored_bytes)
            sys.stdout.write(
                f"{request.snapshot_id} is imported ({size}): the next start of {key.id} resumes from it\n"
            )


def _stored(
    store: SnapshotStore, archive: ArchiveReader, key: CheckpointKey, snapshot_id: SnapshotId, file: Path
) -> Stored:
    """Put what the archive holds into the store, proved on the way in and read back there."""
    store.check_key()
    try:
        with import_folder(file.absolute().parent) as folder:
            with progress.said("checking the archive", lambda: archive.done_bytes, file_bytes(archive.manifest)):
                trees = archive.unpack(folder)
            return store.put(header_of(archive.manifest, key, snapshot_id), trees)
    except OSError as problem:
        cause = f"{problem.filename or file.absolute().parent}: {problem.strerror or problem}"
        advice = "Put the archive into a directory that can be written, with room for what it holds, and see that the store can be written."
        raise FailureError(Failure("import-failed", cause, advice)) from problem


def header_of(was: Manifest, key: CheckpointKey, snapshot_id: SnapshotId) -> ManifestHeader:
    """Say of the new snapshot what was true of the old one; which of its id's incarnations it belongs to says the log."""
    return ManifestHeader(
        snapshot_id=snapshot_id,
        key=key,
        incarnation=IncarnationNumber(was.incarnation),
        taken_at=was.taken_at,
        node_facts=was.node_facts,
        container_facts=was.container_facts,
        stopped_pids=was.stopped_pids,
        warnings=was.warnings,
        environment=was.environment,
        held_files=was.held_files,
        threads=was.threads,
        databases=was.databases,
        generation=was.generation,
    )


def _told(request: ImportRequest, stored: Stored) -> ImportRequest:
    return replace(
        request,
        manifest_digest=stored.manifest_digest,
        raw_bytes=stored.raw_bytes,
        stored_bytes=stored.stored_bytes,
        taken_on=replace(request.taken_on, store=stored.store),
    )


def _recorded(reach: Reach, store: SnapshotStore, request: ImportRequest) -> None:
    """Have it recorded; what is certainly not recorded does not stay in the store."""
    try:
        client.take_in(reach, request)
    except FailureError as problem:
        if problem.failure.code not in _REFUSALS:
            advice = (
                f"`woodfrog get snapshots {request.key.id} -n {request.key.namespace}` shows whether {request.snapshot_id} was recorded; "
                "if not, import it again."
            )
            raise FailureError(replace(problem.failure, advice=f"{problem.failure.advice} {advice}")) from problem
        store.discard(request.key, request.snapshot_id)
        raise
