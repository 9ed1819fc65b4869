"""The verbs that read the log itself: its proof, its export, and what was known, or would have been chosen, at any time.

They open the database and need no running stack: an auditor has a copy of it and nothing else, and somebody whose control
plane does not start has to look into the log all the same. What reads the database is imported where it is used: it takes
most of a second to load, and the other verbs need none of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from controlplane import describe
from woodfrog import client
from woodfrog.cli import progress
from woodfrog.cli.context import reach_of
from woodfrog.cli.options import Id, Namespace, Output, StateDir, key_of, shown, telling
from woodfrog.dev_state import Reach
from woodfrog.local import dev
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Column, Form, put, put_json
from woodfrog.protocol import wire
from woodfrog.protocol.events import LogHeadSigned
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, NodeName, check_id
from woodfrog.protocol.requests import Refusal, RestoreFrom, WaitFor
from woodfrog.service.printable import printable

if TYPE_CHECKING:
    from controlplane.log.chain import Problem
    from controlplane.log.eventlog import EventLog
    from controlplane.log.progress import Progress

T = TypeVar("T")
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="The database of the log; the stack need not run.  [env: WOODFROG_DATABASE_URL]",
        envvar="WOODFROG_DATABASE_URL",
        show_default="that of the state directory",
    ),
]
ArchiveDir = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        help="The directory of the files of archived events.  [env: WOODFROG_LOG_ARCHIVE]",
        envvar="WOODFROG_LOG_ARCHIVE",
        show_default=False,
    ),
]
At = Annotated[
    str | None, typer.Option("--at", help="As it was then: 2026-11-23T21:45:00Z, or without Z in local time.")
]

log = typer.Typer(help="Prove, rebuild, export and archive the log.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    from woodfrog.cli import log_archive  # noqa: PLC0415 - it has the options from here

    app.command()(history)
    app.command()(choose)
    log_archive.register(log)
    app.add_typer(log, name="log")


def moment_of(text: str, option: str) -> datetime:
    """Read a moment; without an offset from UTC it is local time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as problem:
        raise BadInputError(option, f"{text!r} is not a moment such as 2026-11-23T21:45:00Z") from problem
    return moment.astimezone(UTC)


def url_of(given: str | None, state_dir: Path | None) -> str:
    """Find the log's database: the one that was named, or that of the control plane that is meant.

    Raises:
        FailureError: ``database-unknown``.
    """
    url = given or reach_of(state_dir).database
    if url is None:
        advice = "Name it with --database-url or WOODFROG_DATABASE_URL; `woodfrog` in the control plane's pod knows it."
        raise FailureError(Failure("database-unknown", "the log's database is not given", advice))
    return url


def directory_of(archive: Path) -> Path:
    """Make sure that the archive's directory is there."""
    if not archive.is_dir():
        raise BadInputError("--archive", f"{archive} is not a directory")
    return archive


def _counted(what: str, url: str, archive: Path | None, work: Callable[[EventLog, Progress], Awaitable[T]]) -> T:
    """Do something with the log that may take long, and say how far it is."""
    from controlplane.log.progress import Progress  # noqa: PLC0415

    counted = Progress()
    with progress.of_events(what, counted):
        return _with_log(url, archive, lambda log: work(log, counted))


def _with_log(url: str, archive: Path | None, work: Callable[[EventLog], Awaitable[T]]) -> T:
    from controlplane.log.eventlog import EventLog  # noqa: PLC0415

    async def run() -> T:
        log = await EventLog.open(url, archive=None if archive is None else directory_of(archive))
        try:
            return await work(log)
        finally:
            await log.close()

    return asyncio.run(run())


def _key(checkpoint_id: str, namespace: str, database_url: str | None, state_dir: Path | None) -> CheckpointKey:
    if database_url is None:
        return key_of(reach_of(state_dir), checkpoint_id, namespace)
    return CheckpointKey.checked(os.environ.get("WOODFROG_CLUSTER") or dev.CLUSTER, namespace, checkpoint_id)


def was_started(reach: Reach, key: CheckpointKey) -> bool:
    """Tell whether a container of a key ever started, though its events may be archived."""
    return bool(client.view(reach, "restore_history", key))


def history(
    checkpoint_id: Id,
    at: At = None,
    database_url: DatabaseUrl = None,
    archive: ArchiveDir = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """List every event of an id, oldest first, from SQL; with --at, those that were recorded by then."""
    with telling():
        until = None if at is None else moment_of(at, "--at")
        key = _key(checkpoint_id, namespace, database_url, state_dir)
        if until is None and database_url is None and archive is None:
            reach = reach_of(state_dir)
            rows = client.view(reach, "events", key)
            if (rows and rows[0]["version"] > 1) or (not rows and was_started(reach, key)):
                sys.stderr.write(
                    "older events are not shown; where the archive's files are, --archive DIR shows them\n"
                )
        else:
            url = url_of(database_url, state_dir)
            rows = _with_log(url, archive, lambda log: log.history(key))
            rows = [row for row in rows if until is None or datetime.fromisoformat(row["recorded_at"]) <= until]
    columns: tuple[Column, ...] = (
        *shown("position", "occurred_at"),
        ("INCARNATION", lambda row: row["data"].get("incarnation")),
        ("EVENT", lambda row: row["type"]),
        ("WHAT HAPPENED", describe.describe),
    )
    put(rows, columns, output, empty=f"there are no events of {checkpoint_id}")


def choose(
    checkpoint_id: Id,
    node: Annotated[str, typer.Option("--node", help="The node that a container would start on.")],
    at: At = None,
    database_url: DatabaseUrl = None,
    archive: ArchiveDir = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Say how a container of an id would start on a node, now or --at some time. Nothing is changed."""
    from controlplane.core import history as replay  # noqa: PLC0415

    with telling():
        moment = datetime.now(UTC) if at is None else moment_of(at, "--at")
        key = _key(checkpoint_id, namespace, database_url, state_dir)
        name = NodeName(check_id(node, "--node"))
        url = url_of(database_url, state_dir)
        answer = _counted(
            "reading the log", url, archive, lambda log, counted: replay.choose_at(log, key, name, moment, counted)
        )
        if isinstance(answer, Refusal):
            raise FailureError(answer.failure)
    if output is Form.JSON:
        put_json(answer)
        return
    match answer:
        case RestoreFrom():
            words = f"restore {answer.snapshot_id}: {answer.reason}"
        case WaitFor():
            words = f"wait, until {describe.moment(answer.until)} at most, for {answer.waiting_for}"
        case _:
            words = f"cold: {answer.reason}"
    sys.stdout.write(f"{words}\n")


def _public_key(text: str) -> str:
    """Read a public key, given itself or by the name of a file that holds it."""
    path = Path(text)
    found = (path.read_text() if path.is_file() else text).strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", found):
        advice = "Give 64 hex digits, or a file that holds them; the control plane's log names its public key."
        raise FailureError(Failure("log-head-unusable", f"{text} is not a public key", advice))
    return found


def _signed_head(path: Path) -> LogHeadSigned:
    try:
        head: LogHeadSigned = wire.decode(path.read_bytes(), LogHeadSigned)
    except (OSError, wire.MalformedMessageError) as problem:
        advice = (
            "Give a file with one message log.head-signed from AUDIT, or head.json of the ConfigMap woodfrog-log-head."
        )
        raise FailureError(Failure("log-head-unusable", f"{path} is not a signed head: {problem}", advice)) from problem
    return head


async def _check_heads(log: EventLog, head: LogHeadSigned | None, public: str | None) -> tuple[int, list[Problem]]:
    """Compare the log with a head from elsewhere, and with its own if there is a key to believe."""
    signed = [] if public is None else await log.signed_heads()
    signed += [] if head is None else [head]
    return len(signed), await log.head_problems(signed, public=public)


@log.command()
def verify(
    head: Annotated[
        Path | None, typer.Option("--head", help="A signed head that was kept elsewhere; the log must go through it.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="The public key, or its file: every signed head must be signed with it, and fit."),
    ] = None,
    database_url: DatabaseUrl = None,
    archive: ArchiveDir = None,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Prove that the log is as it was written, and its tables what follows from it: positions, hash chains, projections.

    With --archive, the files of archived events, too.
    """
    from controlplane.core import history as replay  # noqa: PLC0415
    from controlplane.log.archive.writer import Archive  # noqa: PLC0415

    async def prove(log: EventLog, counted: Progress) -> replay.Proof:
        if archive is None:
            return await replay.verify(log, progress=counted)
        files = await Archive.open(url, archive)
        try:
            return await replay.verify(log, files, counted)
        finally:
            await files.close()

    async def work(log: EventLog, counted: Progress) -> tuple[replay.Proof, int]:
        proof = await prove(log, counted)
        count, wrong = await _check_heads(log, kept, public)
        problems = (*proof.problems, *wrong)
        return msgspec.structs.replace(proof, problems=problems, sound=proof.sound and not wrong), count

    with telling():
        url = url_of(database_url, state_dir)
        kept = None if head is None else _signed_head(head)
        public = None if key is None else _public_key(key)
        found, signed_heads = _counted("verifying", url, archive, work)
    if output is Form.JSON:
        put_json(found)
    else:
        for problem in found.problems:
            sys.stdout.write(f"{f'position {problem.position}: ' if problem.position else ''}{problem.what}\n")
        verdict = "sound" if found.sound else "NOT as it was written"
        sys.stdout.write(f"{found.events} events in {found.streams} streams: {verdict}\n")
        if kept is not None or public is not None:
            sys.stdout.write(f"{signed_heads} signed heads were compared with it\n")
        if not found.whole:
            sys.stdout.write(
                f"{found.archived} older events are archived: --archive DIR proves their files and the tables behind the views\n"
            )
    if not found.sound:
        raise typer.Exit(1)


@log.command()
def rebuild(database_url: DatabaseUrl = None, archive: ArchiveDir = None, state_dir: StateDir = None) -> None:
    """Rebuild the tables behind the views from the events. Readers and writers are not interrupted."""

    async def work(log: EventLog, counted: Progress) -> int:
        await log.rebuild(counted)
        return await log.head()

    with telling():
        url = url_of(database_url, state_dir)
        sys.stdout.write(f"rebuilt from {_counted('rebuilding', url, archive, work)} events\n")


@log.command()
def export(
    start: Annotated[int, typer.Option("--from", min=1, help="The first position.")] = 1,
    end: Annotated[
        int | None, typer.Option("--to", min=1, help="The last position.", show_default="the newest")
    ] = None,
    database_url: DatabaseUrl = None,
    archive: ArchiveDir = None,
    state_dir: StateDir = None,
) -> None:
    """Write events to standard output, one JSON object a line, as rows of the view `events`."""
    from controlplane.core import history as replay  # noqa: PLC0415

    def write(row: dict[str, Any]) -> None:
        sys.stdout.buffer.write(printable(msgspec.json.encode(row).decode()).encode() + b"\n")

    with telling():
        url = url_of(database_url, state_dir)
        _counted("exporting", url, archive, lambda log, counted: replay.export(log, start, end, write, counted))
        sys.stdout.buffer.flush()
