"""The verbs about containers of this machine: run one, stop it, see what there is."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nodeworker.runtime.install import DEFAULT_VARIABLE
from protocol.ids import CheckpointKey
from woodfrog import ask, dev, run, stopping
from woodfrog.bundle import (
    BadInputError,
    ContainerSpec,
    check_distinct,
    check_hostname,
    check_interval,
    hostname_from,
    parse_env,
    parse_mount,
)
from woodfrog.layers import LAYERS, Layers
from woodfrog.output import Form, put, put_json
from woodfrog.verbs import Id, Namespace, Output, StateDir, key_of, shown, state_of, telling


def register(app: typer.Typer, get: typer.Typer) -> None:
    """Add the verbs."""
    app.command(name="run", context_settings={"allow_interspersed_args": False})(run_verb)
    app.command()(stop)
    app.command()(ps)
    app.command()(rm)
    get.command(name="layers")(layers_verb)


def run_verb(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run.", show_default=False)],
    checkpoint_id: Annotated[str, typer.Option("--id", help="The checkpoint id.", show_default=False)],
    rootfs: Annotated[Path, typer.Option(help="The directory below the container's own layer.")] = Path("/"),
    mount: Annotated[
        list[str] | None, typer.Option(help="type=bind,src=SRC,dst=DST[,ro] or SRC:DST[:ro]; may be repeated.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The container's host name.", show_default="made from the id")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(help="How often to snapshot it while it runs: 30s, 5m, off.", show_default="the policy's"),
    ] = None,
    require_restore: Annotated[
        bool, typer.Option("--require-restore", help="Fail instead of starting cold while the id has snapshots.")
    ] = False,
    from_layer: Annotated[
        str | None,
        typer.Option(
            "--from-layer",
            help="Start fresh over a layer that was kept, as `woodfrog get layers` names it, or `newest`.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start without the id's past; later starts do not go back to it either.")
    ] = False,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Run a container in the foreground; it goes on from the latest valid snapshot of its id.

    Ctrl-C takes the final snapshot and ends it; a second Ctrl-C kills it.
    """
    with telling():
        key = CheckpointKey.checked(dev.CLUSTER, namespace, checkpoint_id)
        mounts = tuple(parse_mount(text) for text in mount or ())
        check_distinct(mounts)
        if (fresh or from_layer is not None) and require_restore:
            raise BadInputError("--require-restore", "it contradicts --fresh and --from-layer")
        lower = rootfs.absolute()
        if not lower.is_dir():
            raise BadInputError("--rootfs", f"{lower} is not a directory")
        described = state_of(state_dir).described()
        spec = ContainerSpec(
            args=tuple(command),
            hostname=check_hostname(name) if name is not None else hostname_from(checkpoint_id),
            image=f"dir:{lower}",
            env=tuple(parse_env(text, DEFAULT_VARIABLE) for text in env or ()),
            mounts=mounts,
            interval=None if interval is None else check_interval(interval),
            require_restore=require_restore,
            fresh=uuid.uuid4().hex if fresh or from_layer is not None else "",
            hidden=described.secret_places,
        )
        if namespace != described.namespace:
            raise BadInputError("--namespace", f"`woodfrog run` runs containers in namespace {described.namespace}")
        layer = "" if from_layer == "newest" else from_layer
        code = run.Foreground(described, key, spec, lower, output, from_layer=layer).run()
    raise typer.Exit(code)


def stop(
    checkpoint_id: Id,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", help="Seconds that a container without a final snapshot has to end.")
    ] = 30.0,
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
            for container in ask.containers(state_of(state_dir).described().socket)
        ]
    columns = shown("id", "namespace", "incarnation", "state", "doing", "restored_from", "container_id")
    put(rows, columns, output, empty="no protected container runs on this node")


def layers_verb(state_dir: StateDir = None, output: Output = Form.TABLE) -> None:
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
