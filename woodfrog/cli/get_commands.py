"""The verbs ``get …``: what the log knows, as lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any, Final

import typer
from msgspec.structs import replace

from woodfrog import client
from woodfrog.cli import container_commands, node_rows, unstored_rows
from woodfrog.cli.context import reach_of
from woodfrog.cli.id_rows import age, joined
from woodfrog.cli.log_commands import moment_of
from woodfrog.cli.options import Limit, ListOutput, OptionalId, StateDir, key_of, shown, telling
from woodfrog.cli.watch import put_watched
from woodfrog.dev_state import Reach
from woodfrog.local import dev
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import ListForm
from woodfrog.protocol import amounts
from woodfrog.protocol.durations import InvalidAmountError, parse_seconds
from woodfrog.protocol.events import EVENT_TYPES
from woodfrog.protocol.ids import CheckpointKey, check_id
from woodfrog.protocol.requests import EventFilter, View

_MOST_ROWS: Final = 10_000

Watch = Annotated[bool, typer.Option("-w", "--watch", help="Then show what changes, until Ctrl-C.")]
OnlyNamespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Only this namespace.", show_default="all; of an ID, default"),
]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="All namespaces, as without -n and an ID.")]


def register(app: typer.Typer) -> typer.Typer:
    """Add the verbs; return their group."""
    get = typer.Typer(help="List what the log knows.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(get, name="get")
    for verb in (ids, snapshots, nodes, commands, failures, events, container_commands.layers):
        get.command()(verb)
    return get


def _rows(reach: Reach, view: View, which: tuple[str | None, str | None], limit: int) -> list[dict[str, Any]]:
    """Read the newest rows of an id, of a namespace, or all."""
    checkpoint_id, namespace = which
    if checkpoint_id is not None:
        return client.view(reach, view, key_of(reach, checkpoint_id, namespace or dev.NAMESPACE), limit=limit)
    if namespace is None:
        return client.view(reach, view, None, limit=limit)
    return client.of_namespace(reach, view, namespace, limit=limit)


def _which(checkpoint_id: str | None, namespace: str | None, *, everywhere: bool) -> tuple[str | None, str | None]:
    if everywhere and (namespace is not None or checkpoint_id is not None):
        raise BadInputError("--all-namespaces", "it contradicts --namespace and an ID, which is one namespace's")
    if namespace is not None:
        check_id(namespace, "--namespace")
    if checkpoint_id is not None:
        check_id(checkpoint_id, "ID")
    return checkpoint_id, namespace


def _none(text: str, which: tuple[str | None, str | None]) -> str:
    """Say that a list is empty, and what was looked for."""
    checkpoint_id, namespace = which
    if checkpoint_id is not None:
        return f"{text} (id {checkpoint_id}, namespace {namespace or dev.NAMESPACE})"
    return text if namespace is None else f"{text} (namespace {namespace})"


def ids(
    namespace: OnlyNamespace = None,
    all_namespaces: AllNamespaces = False,
    forgotten: Annotated[bool, typer.Option("--forgotten", help="Also ids that were forgotten.")] = False,
    watch: Watch = False,
    state_dir: StateDir = None,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List ids: the state of the newest container, and the snapshot that the next one resumes from if its node can."""
    columns = (
        *shown("namespace", "id", "state", "node", "snapshot_id"),
        ("AGE", lambda row: age(row.get("captured_at"), datetime.now(UTC))),
        ("SIZE", lambda row: None if row.get("stored_bytes") is None else amounts.size(row["stored_bytes"])),
    )
    with telling():
        which = _which(None, namespace, everywhere=all_namespaces)
        reach = reach_of(state_dir)

        def read() -> list[dict[str, Any]]:
            found = (_rows(reach, view, which, _MOST_ROWS) for view in ("restore_history", "latest_snapshots"))
            return joined(*found, forgotten=forgotten)

        put_watched(
            read,
            columns,
            output,
            name="id",
            empty=_none("no container with an id was ever started", which),
            watch=watch,
        )


def snapshots(
    checkpoint_id: OptionalId = None,
    namespace: OnlyNamespace = None,
    all_namespaces: AllNamespaces = False,
    watch: Watch = False,
    state_dir: StateDir = None,
    limit: Limit = _MOST_ROWS,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List snapshots, oldest first."""
    columns = shown(
        "id",
        "snapshot_id",
        "incarnation",
        "node",
        "trigger",
        "status",
        "freeze_seconds",
        "raw_bytes",
        "stored_bytes",
        "not_stored",
    )
    with telling():
        which = _which(checkpoint_id, namespace, everywhere=all_namespaces)
        reach = reach_of(state_dir)

        def read() -> list[dict[str, Any]]:
            rows = _rows(reach, "checkpoint_history", which, limit)
            told = (
                client.view(reach, "events", CheckpointKey(*names)) for names in sorted(unstored_rows.awaiting(rows))
            )
            return unstored_rows.with_delays(rows, [event for events in told for event in events])

        put_watched(
            read, columns, output, name="snapshot_id", empty=_none("there are no snapshots", which), watch=watch
        )


def nodes(
    watch: Watch = False,
    state_dir: StateDir = None,
    limit: Limit = _MOST_ROWS,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List nodes; with -o wide or json also each one's self-test, disk and what its worker does now, unless --watch."""
    columns = shown(
        "node",
        "status",
        "registered_at",
        "kernel_release",
        "criu_version",
        "runc_version",
        "cgroup_version",
        "clock_offset_seconds",
        "store",
        "gpu_count",
        "gpu_models",
        "gpu_memory_bytes",
        "gpu_driver",
    )
    with telling():
        reach = reach_of(state_dir)

        def read() -> list[dict[str, Any]]:
            rows = client.view(reach, "nodes", limit=limit, statuses=not watch)
            return [node_rows.flat(row) for row in rows] if output is ListForm.WIDE else rows

        put_watched(read, columns, output, name="node", empty="no worker has registered", watch=watch)


def commands(
    checkpoint_id: OptionalId = None,
    namespace: OnlyNamespace = None,
    all_namespaces: AllNamespaces = False,
    watch: Watch = False,
    state_dir: StateDir = None,
    limit: Limit = _MOST_ROWS,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List commands, oldest first."""
    columns = shown(
        "command_id", "kind", "id", "incarnation", "node", "status", "snapshot_id", "issued_at", "finished_at"
    )
    with telling():
        which = _which(checkpoint_id, namespace, everywhere=all_namespaces)
        read = partial(_rows, reach_of(state_dir), "commands", which, limit)
        put_watched(
            read, columns, output, name="command_id", empty=_none("no command was ever issued", which), watch=watch
        )


def failures(
    checkpoint_id: OptionalId = None,
    namespace: OnlyNamespace = None,
    all_namespaces: AllNamespaces = False,
    watch: Watch = False,
    state_dir: StateDir = None,
    limit: Limit = _MOST_ROWS,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List failures, oldest first, each with what to do about it."""
    columns = shown("failed_at", "id", "type", "snapshot_id", "failure_code", "failure_cause", "failure_advice")
    with telling():
        which = _which(checkpoint_id, namespace, everywhere=all_namespaces)
        read = partial(_rows, reach_of(state_dir), "failures", which, limit)
        put_watched(read, columns, output, name="position", empty=_none("nothing has failed", which), watch=watch)


def events(
    checkpoint_id: OptionalId = None,
    namespace: OnlyNamespace = None,
    node: Annotated[str | None, typer.Option("--node", help="Only the events of this node itself.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only events of this type, such as snapshot.stored; may be repeated."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what was recorded later: 2h for two hours ago, or a moment.")
    ] = None,
    watch: Watch = False,
    state_dir: StateDir = None,
    limit: Limit = _MOST_ROWS,
    output: ListOutput = ListForm.TABLE,
) -> None:
    """List the log itself, oldest event first; all of it, or what is asked for."""
    columns = shown("position", "occurred_at", "type", "stream", "version")
    with telling():
        checkpoint_id, namespace = _which(checkpoint_id, namespace, everywhere=False)
        wanted = event_filter(namespace, node, types or [], since, datetime.now(UTC))
        if node is not None and (checkpoint_id is not None or namespace is not None):
            raise BadInputError("--node", "the events of a node belong to no id and no namespace; name one of them")
        reach = reach_of(state_dir)
        everything = checkpoint_id is None and wanted == EventFilter()
        if checkpoint_id is not None:
            key = key_of(reach, checkpoint_id, namespace or dev.NAMESPACE)
            wanted = replace(wanted, namespace="")
            read = partial(client.events, reach, wanted, key, limit=limit)
        elif not everything:
            read = partial(client.events, reach, replace(wanted, cluster=reach.cluster), limit=limit)
        else:
            read = partial(_rows, reach, "events", (None, None), limit)
        put_watched(
            read,
            columns,
            output,
            name="position",
            empty="the log is empty" if everything else "there are no such events",
            watch=watch,
        )


def event_filter(
    namespace: str | None, node: str | None, types: Sequence[str], since: str | None, now: datetime
) -> EventFilter:
    """Read which events are wanted.

    Raises:
        BadInputError: naming the option that cannot be meant.
    """
    if node is not None:
        check_id(node, "--node")
    for unknown in sorted(set(types) - set(EVENT_TYPES)):
        near = get_close_matches(unknown, EVENT_TYPES, 1) or ["snapshot.stored"]
        raise BadInputError("--type", f"there are no events of type {unknown!r}; did you mean {near[0]}?")
    moment = None
    if since is not None:
        try:
            moment = now - timedelta(seconds=parse_seconds(since))
        except (InvalidAmountError, OverflowError):
            moment = moment_of(since, "--since")
    return EventFilter(namespace=namespace or "", node=node or "", types=tuple(types), since=moment)
