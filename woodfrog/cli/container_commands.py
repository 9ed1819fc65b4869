"""The verbs about containers of this machine that have begun: stop one, see what there is."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from woodfrog import client
from woodfrog.cli.options import Id, Namespace, Output, StateDir, key_of, shown, state_of, telling, timeout
from woodfrog.local import dev, stopping
from woodfrog.local.kept_layers import LAYERS, Layers
from woodfrog.output import Form, put, put_json


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(stop)
    app.command()(ps)
    app.command()(rm)


def stop(
    checkpoint_id: Id,
    timeout_seconds: Annotated[float, timeout("Seconds that a container without a final snapshot has to end.")] = 30.0,
    kill: Annotated[bool, typer.Option("--kill", help="Kill it if it has not ended by then.")] = False,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Stop the container of an id: its final snapshot is taken, then it ends. Exit code 1 if there is no snapshot, or it runs on."""
    with telling():
        described = state_of(state_dir).described()
        key = key_of(described.reach, checkpoint_id, namespace)
        stopped = stopping.stop(described, key, timeout_seconds=timeout_seconds, kill=kill)
        for each in stopped:
            if each.captured_as is not None:
                typer.echo(f"woodfrog: {stopping.after_capture(described, key, each.captured_as)}", err=True)
    put(
        [msgspec.to_builtins(each) for each in stopped],
        shown("container_id", "captured_as", "ended", "why_not"),
        output,
        empty="the container has ended",
    )
    if any(each.why_not or not each.ended for each in stopped):
        raise typer.Exit(1)


def ps(state_dir: StateDir = None, output: Output = Form.TABLE) -> None:
    """List the protected containers on this node."""
    with telling():
        rows = [
            {
                "id": container.key.id,
                "namespace": container.key.namespace,
                "incarnation": container.incarnation,
                "state": container.state,
                "doing": container.doing,
                "restored_from": container.restored_from,
                "container_id": container.container_id,
                "bundle": container.bundle,
            }
            for container in client.containers(state_of(state_dir).described().socket)
        ]
    columns = shown("id", "namespace", "incarnation", "state", "doing", "restored_from", "container_id")
    put(rows, columns, output, empty="no protected container runs on this node")


def layers(state_dir: StateDir = None, output: Output = Form.TABLE) -> None:
    """List the layers of containers of `woodfrog run` whose work was not captured, oldest first."""
    with telling():
        kept = Layers(state_of(state_dir).path / LAYERS).all()
    rows = [msgspec.to_builtins(each) for each in kept]
    put(rows, shown("id", "layer", "kept_at", "bytes", "why"), output, empty="no layer is kept")


def rm(
    layer: Annotated[str, typer.Argument(metavar="LAYER", help="The layer, as `woodfrog get layers` names it.")],
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Remove a layer that was kept."""
    with telling():
        Layers(state_of(state_dir).path / LAYERS).remove(layer)
    if output is Form.JSON:
        put_json({"removed": layer})
