"""The command ``woodfrog``.

Exit codes: 0 done, 1 it could not be done (standard error says why and what helps), 2 it was asked for wrongly and nothing
was changed. ``run`` answers with the exit code of its container.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from woodfrog import client
from woodfrog.cli import (
    check,
    closed_streams,
    container_commands,
    dump_wait,
    engine_commands,
    forget_command,
    get_commands,
    log_commands,
    migrate_pod,
    run_command,
    session_commands,
    snapshot_commands,
    snapshot_files,
    snapshot_import,
    why_command,
)
from woodfrog.cli import snapshot_contents as snapshots_
from woodfrog.cli.context import reach_of
from woodfrog.cli.kubectl import CONTEXT
from woodfrog.cli.options import Id, Namespace, Output, StateDir, key_of, state_of, telling, timeout
from woodfrog.cli.release_name import release_name
from woodfrog.dev_state import Description, Reach
from woodfrog.local import demo, dev, page
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.service import logs
from woodfrog.service.printable import printable_output

app = typer.Typer(
    help="Containers that pick up where they left off.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"woodfrog {release_name()}\n")
        raise typer.Exit


@app.callback()
def _begin(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
    cluster_context: Annotated[
        str,
        typer.Option(
            "--context",
            envvar=CONTEXT,
            help="Ask the cluster of this context of kubectl, not this machine.",
            show_default="kubectl's current one, where none was started here",
        ),
    ] = "",
) -> None:
    """Let no text of a node or a pod reach the terminal as an order; what a container writes itself is its own."""
    if cluster_context:
        os.environ[CONTEXT] = cluster_context
    context.with_resource(printable_output())


_POLL_SECONDS = 0.1
_HEARSAY_SECONDS = 5.0
"""How long the control plane may need to hear of a container that runs already."""


@app.command(name="dev")
def dev_(
    state_dir: StateDir = None,
    store: Annotated[
        Path | None, typer.Option(help="Where snapshots go.", show_default="in the state directory")
    ] = None,
    page_address: Annotated[
        str | None,
        typer.Option(
            "--page", metavar="ADDRESS", help="Serve the page and the HTTP API at this address, such as 127.0.0.1:8443."
        ),
    ] = None,
    page_actions: Annotated[
        bool,
        typer.Option(
            "--page-actions", help="Let the page pin, retry, invalidate and delete snapshots and take new ones."
        ),
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Run everything on this machine: NATS, control plane and node worker. Ctrl-C stops it."""

    def ready(described: Description) -> None:
        if output is Form.JSON:
            shown = msgspec.to_builtins(described)
            del shown["nats_url"]  # its password is in dev.json, for root only
            sys.stdout.write(f"{msgspec.json.encode(shown).decode()}\n")
        else:
            sys.stdout.write(f"woodfrog is ready: state {described.state_dir}, runtime {described.runtime}\n")
            if page_address is not None:
                sys.stdout.write(f"page: {page.link(state_of(state_dir), page_address)}\n")
        sys.stdout.flush()

    with telling():
        dev.serve(state_of(state_dir), store, ready, page_address, page_actions=page_actions)


@app.command()
def doctor(
    control_plane: Annotated[
        bool, typer.Option("--control-plane", help="Look at what a control plane uses instead: NATS and the database.")
    ] = False,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Show what works on this machine and what does not; a container is dumped, restored and continued for it.

    Exit code 1 if something does not work. On a node of a cluster, use woodfrog-node doctor.
    """
    from woodfrog.cli import controlplane_doctor, local_doctor  # noqa: PLC0415 -- its clients of clouds take long to import

    with telling():
        if control_plane:
            code = controlplane_doctor.examine(reach_of(state_dir), as_json=output is Form.JSON)
        else:
            code = local_doctor.examine(state_of(state_dir), as_json=output is Form.JSON)
    raise typer.Exit(code)


@app.command()
def checkpoint(
    checkpoint_id: Id,
    namespace: Namespace = dev.NAMESPACE,
    timeout_seconds: Annotated[float, timeout("Seconds after which to give up.")] = 600.0,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Take a snapshot of the running container of an id and leave it running; returns when it is stored."""
    with telling():
        reach = reach_of(state_dir)
        key = key_of(reach, checkpoint_id, namespace)
        command_id = _ask_for_dump(reach, key, timeout_seconds, state_dir)
        row = dump_wait.stored(reach, key, command_id, timeout_seconds)
        if row["status"] != "succeeded":
            raise FailureError(client.failure_of(reach, row))
    if output is Form.JSON:
        put_json(row)
    else:
        sys.stdout.write(f"{row['snapshot_id']}\n")


def _ask_for_dump(reach: Reach, key: CheckpointKey, timeout_seconds: float, state_dir: Path | None) -> CommandId:
    """Ask for a dump; again, for a moment, where the worker knows that the container runs and the log does not yet."""
    deadline = time.monotonic() + _HEARSAY_SECONDS
    while True:
        try:
            return client.checkpoint(reach, key, timeout_seconds)
        except FailureError as problem:
            late = time.monotonic() > deadline
            if problem.failure.code != "not-running" or late or not _runs_here(key, state_dir):
                raise
            time.sleep(_POLL_SECONDS)


def _runs_here(key: CheckpointKey, state_dir: Path | None) -> bool:
    """Whether this node's worker knows a running container of the key."""
    with suppress(FailureError):
        described = state_of(state_dir).described()
        return any(each.key == key and each.state == "running" for each in client.containers(described.socket))
    return False


@app.command(name="demo")
def demo_(output: Output = Form.TABLE) -> None:
    """Show the main job from start to end, with a stack and containers of its own."""
    with telling():
        demo.show(output)


get = get_commands.register(app)
snapshot_files.register(app, get)
run_command.register(app)
container_commands.register(app)
session_commands.register(app)
snapshot_commands.register(app)
snapshots_.register(app)
snapshot_import.register(app)
forget_command.register(app)
log_commands.register(app)
why_command.register(app)
migrate_pod.register(app)
check.register(app)
engine_commands.register(app)


def main() -> None:
    """Run the command line."""
    closed_streams.reopen()
    logs.configure("error")  # what the libraries below have to say otherwise is not for whoever typed a command
    app()


if __name__ == "__main__":
    main()
