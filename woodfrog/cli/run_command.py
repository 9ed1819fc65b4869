"""The verb ``run``: what may be asked of it, checked before anything is made."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nodeworker.domain.checkpoint_options import FRESH, INTERVAL, REQUIRE_RESTORE
from nodeworker.runtime.install import DEFAULT_VARIABLE
from woodfrog.cli.options import Namespace, Output, StateDir, state_of, telling
from woodfrog.dev_state import Description
from woodfrog.local import container_log, detached, dev, run
from woodfrog.local.command_errors import EXIT_CODES
from woodfrog.local.console import Console, Terminal
from woodfrog.local.container_log import ContainerLog
from woodfrog.local.oci_bundle import (
    BadInputError,
    ContainerSpec,
    check_annotations,
    check_distinct,
    check_hostname,
    check_interval,
    hostname_from,
    parse_annotation,
    parse_env,
    parse_memory,
    parse_mount,
)
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="run", context_settings={"allow_interspersed_args": False})(run_verb)


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
    memory: Annotated[
        str | None,
        typer.Option(help="How much memory it may have: 512MiB, or 512m.", show_default="as much as there is"),
    ] = None,
    annotation: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, an annotation such as woodfrog.io/on-stop=ignore; may be repeated."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Return when the container has started, and print its name.")
    ] = False,
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
    """Run a container, which resumes from the latest valid snapshot of its id; in the foreground, or detached.

    Ctrl-C takes the final snapshot and ends it; a second Ctrl-C kills it. For a detached one, `woodfrog stop` and `woodfrog kill` do that, and
    `woodfrog logs` shows its output.

    Exit code: the container's own. 137: its final snapshot was taken. 125: Woodfrog could not start it, or could not capture it.
    126: the command cannot be executed. 127: there is no such command. 2: usage error.
    """
    with telling(exit_code):
        key = CheckpointKey.checked(dev.CLUSTER, namespace, checkpoint_id)
        mounts = tuple(parse_mount(text) for text in mount or ())
        check_distinct(mounts)
        if (fresh or from_layer is not None) and require_restore:
            raise BadInputError("--require-restore", "it contradicts --fresh and --from-layer")
        annotations = tuple(parse_annotation(text) for text in annotation or ())
        check_annotations(
            annotations, _taken(interval, require_restore=require_restore, fresh=fresh or from_layer is not None)
        )
        memory_bytes = None if memory is None else parse_memory(memory)
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
            annotations=annotations,
            memory_bytes=memory_bytes,
            hidden=described.secret_places,
        )
        if namespace != described.namespace:
            raise BadInputError("--namespace", f"`woodfrog run` runs containers in namespace {described.namespace}")
        layer = "" if from_layer == "newest" else from_layer
        container_id = ContainerId(uuid.uuid4().hex[:16])
        try:
            with _console(described, key, container_id, detach=detach) as console:
                container = run.SupervisedContainer(
                    described, key, spec, lower, container_id, console, output, from_layer=layer
                )
                code = container.run()
        except detached.Ended as begun:
            _put_started(begun, key, output)
            code = begun.code
    raise typer.Exit(code)


def exit_code(failure: Failure) -> int:
    """Return with what ``run`` ends because of a failure of its own: none of a program's usual codes."""
    return EXIT_CODES.get(failure.code, run.NOT_CAPTURED)


def _taken(interval: str | None, *, require_restore: bool, fresh: bool) -> dict[str, str]:
    options = {
        INTERVAL: "--interval" if interval is not None else "",
        REQUIRE_RESTORE: "--require-restore" if require_restore else "",
        FRESH: "--fresh or --from-layer" if fresh else "",
    }
    return {name: option for name, option in options.items() if option}


@contextmanager
def _console(
    described: Description, key: CheckpointKey, container_id: ContainerId, *, detach: bool
) -> Iterator[Console]:
    if not detach:
        yield Terminal()
        return
    state_dir = Path(described.state_dir)
    container_log.prune(state_dir, datetime.now(UTC))
    ready = detached.split()
    log = ContainerLog.of(state_dir, key.namespace, key.id)
    with ExitStack() as opened:
        try:
            writer = opened.enter_context(log.writer(container_id))
        except OSError as problem:
            cause = f"the log of a detached container cannot be written below {state_dir}: {problem}"
            advice = "Make room there, or run it without --detach."
            raise FailureError(Failure("state-dir-unfit", cause, advice)) from problem
        yield detached.Background(writer, container_id, ready)


def _put_started(begun: detached.Ended, key: CheckpointKey, output: Form) -> None:
    if begun.started is None:
        return
    if output is Form.JSON:
        put_json({"id": key.id, "namespace": key.namespace, "container_id": begun.started.container_id})
    else:
        sys.stdout.write(f"{begun.started.container_id}\n")
