"""The verb ``why``: how the last start of an id came about, what has failed since, and what a restart would do now and lose."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import msgspec
import typer

from controlplane import describe
from woodfrog import client
from woodfrog.cli import log_commands
from woodfrog.cli.context import reach_of
from woodfrog.cli.ids_of_pods import go_on_with_ids
from woodfrog.cli.options import Namespace, Output, StateDir, key_of, telling
from woodfrog.local import dev
from woodfrog.output import Form, put_json
from woodfrog.protocol.events import NodeEvent
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.requests import EventFilter
from woodfrog.service.printable import printable

if TYPE_CHECKING:
    from controlplane.core.next_start import NextStart
    from woodfrog.dev_state import Reach
    from woodfrog.protocol.ids import CheckpointKey

_NODE_EVENTS: Final = tuple(sorted({str(kind.__struct_config__.tag) for kind in get_args(NodeEvent)}))
_MOST_NODE_EVENTS: Final = 500


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(why)


def why(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="ID|POD...", help="Checkpoint ids, or pods of a cluster.", show_default=False)
    ],
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Show why the last start of an id was what it was, what has happened since, and what a restart would do now and lose."""
    with telling():
        go_on_with_ids(context, names, namespace, state_dir)
        reach = reach_of(state_dir)
        found = [_explained(reach, key_of(reach, name, namespace)) for name in names]
    if output is Form.JSON:
        put_json(found[0] if len(found) == 1 else found)
        return
    for number, (name, told) in enumerate(zip(names, found, strict=True)):
        if len(names) > 1:
            sys.stdout.write(f"{chr(10) if number else ''}{printable(name)}:\n")
        if told is not None:
            sys.stdout.write("".join(f"{printable(line)}\n" for line in told["sentences"]))
            sys.stdout.write("".join(f"  -> {printable(line)}\n" for line in told["advice"]))
            sys.stdout.write("".join(f"{printable(line)}\n" for line in (told["next"] or {}).get("sentences", ())))


def _explained(reach: Reach, key: CheckpointKey) -> dict[str, Any] | None:
    """Explain one id; say on standard error that there is nothing to explain."""
    events = client.view(reach, "events", key)
    told = describe.explain(events)
    if told is not None:
        return {**msgspec.to_builtins(told), "next": msgspec.to_builtins(_next(reach, key, events, told.node))}
    if log_commands.was_started(reach, key):
        where = f"`woodfrog history {key.id} --archive DIR` shows it, where the files are"
        sys.stderr.write(f"the last start of {key.id} has been archived: {where}\n")
    else:
        sys.stderr.write(f"no container with the id {key.id} was ever started\n")
    return None


def _next(reach: Reach, key: CheckpointKey, events: list[dict[str, Any]], node: str) -> NextStart | None:
    from controlplane.core.next_start import next_start  # noqa: PLC0415 - it brings the log along, which takes its time
    from controlplane.log.upcast import UnreadableEventError  # noqa: PLC0415

    with suppress(
        FailureError, UnreadableEventError
    ):  # a control plane of before filters no events; a newer one writes others
        only = EventFilter(cluster=reach.cluster, node=node, types=_NODE_EVENTS)
        of_node = client.events(reach, only, limit=_MOST_NODE_EVENTS)
        return next_start(events, of_node, key, datetime.now(UTC))
    return None
