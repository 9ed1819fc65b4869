"""``woodfrog log archive``: old events moved out of the database into files. The one verb that takes something out of the log."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from woodfrog.cli import progress
from woodfrog.cli.log_commands import ArchiveDir, DatabaseUrl, directory_of, moment_of, url_of
from woodfrog.cli.options import Output, StateDir, shown, telling
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Form, put
from woodfrog.protocol.ids import Position


def register(log: typer.Typer) -> None:
    """Add the verb."""
    log.command()(archive)


def archive(
    before: Annotated[
        str,
        typer.Option(
            "--before", metavar="TIME|POSITION", help="Archive events recorded before then, or before this position."
        ),
    ],
    archive: ArchiveDir = None,
    segment_events: Annotated[
        int,
        typer.Option(
            "--segment-events", min=1, help="How many events a file has. SQLite only: PostgreSQL's have a partition."
        ),
    ] = 100_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be archived.")] = False,
    database_url: DatabaseUrl = None,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Move old events out of the database into files, whole segments at a time; the stack may run.

    Keep the files: the log is proved, and folded by new versions, with them.
    """
    from controlplane.archiving import archive as take  # noqa: PLC0415 - it takes most of a second to load
    from controlplane.log.progress import Progress  # noqa: PLC0415

    with telling():
        moment, through = _bounds(before)
        url = url_of(database_url, state_dir)  # first: it may go on in the control plane's pod, where the directory is
        if archive is None:
            raise BadInputError("--archive", "it must name the directory where the files go")
        folder = directory_of(archive)
        counted = Progress()
        work = take(
            url, folder, through=through, before=moment, segment_positions=segment_events, dry_run=dry_run,
            progress=counted,
        )  # fmt: skip
        with progress.of_events("archiving", counted):
            done = asyncio.run(work)
    columns = shown("first_position", "last_position", "first_recorded_at", "last_recorded_at", "file_bytes", "file")
    rows = [msgspec.to_builtins(each) for each in done]
    put(rows, columns, output, empty=f"no whole segment lies before {before}: nothing is to be archived")
    if rows and dry_run:
        sys.stderr.write("nothing was archived: this was a dry run\n")


def _bounds(before: str) -> tuple[datetime | None, Position | None]:
    if before.isdecimal():
        return None, Position(int(before) - 1)
    return moment_of(before, "--before"), None
