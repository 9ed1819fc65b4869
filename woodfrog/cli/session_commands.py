"""The verbs that reach into a container which runs: read its output, execute a command in it, send it a signal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from nodeworker.runtime.install import DEFAULT_VARIABLE
from woodfrog import client
from woodfrog.cli import run_command
from woodfrog.cli.options import Namespace, Output, StateDir, state_of, telling
from woodfrog.dev_state import Description
from woodfrog.local import container_log, dev
from woodfrog.local.command_errors import command_error
from woodfrog.local.container_log import ContainerLog, Entry
from woodfrog.local.oci_bundle import BadInputError, parse_env
from woodfrog.local.oci_runtime import Runtime, logged
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, check_id
from woodfrog.protocol.runtime_api import ContainerStatus

ContainerName = Annotated[
    str,
    typer.Argument(
        metavar="ID|CONTAINER", help="A checkpoint id, or a container of `woodfrog ps`.", show_default=False
    ),
]
_ALIVE: Final = frozenset({"created", "running", "dumping"})
_FAILED_TO_EXECUTE: Final = 255
"""runc's exit code where it could not start the command."""
_SIGNAL_NAME: Final = re.compile(r"(?:SIG)?([A-Z0-9+-]+)", re.ASCII)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(logs)
    app.command(name="exec", context_settings={"allow_interspersed_args": False})(exec_)
    app.command()(kill)


def logs(
    container: ContainerName,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log until the container has ended.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, help="Only the last so many lines of what there is.", show_default="all")
    ] = None,
    timestamps: Annotated[bool, typer.Option("-t", "--timestamps", help="Show when each line was written.")] = False,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
) -> None:
    """Show the output of detached containers of an id, or of one container.

    What the container wrote to standard error, and what Woodfrog says of it, goes to standard error.
    """
    with telling():
        state = state_of(state_dir)
        described = state.described()
        check_id(container, "ID|CONTAINER")
        log, only = _log_of(Path(described.state_dir), namespace, container)
        with suppress(BrokenPipeError, KeyboardInterrupt):
            for entry in log.read(tail, only, follow=follow):
                _show(entry, timestamps=timestamps)


def _log_of(state_dir: Path, namespace: str, name: str) -> tuple[ContainerLog, str]:
    """Find the log of an id, or the one that has a container's output; then also which container."""
    log = ContainerLog.of(state_dir, namespace, name)
    if log.exists:
        return log, ""
    found = container_log.id_of(state_dir, name)
    if found is None:
        cause = f"no output of a container or an id {name} is kept in namespace {namespace}"
        advice = "Only containers of `woodfrog run --detach` have a log; others write to where they were started, or to their engine's log."
        raise FailureError(Failure("no-output", cause, advice))
    return ContainerLog.of(state_dir, *found), name


def _show(entry: Entry, *, timestamps: bool) -> None:
    out = sys.stdout.buffer if entry.stream == "stdout" else sys.stderr.buffer
    out.write((f"{entry.at} ".encode() if timestamps else b"") + entry.text)
    out.flush()


def exec_(
    container: ContainerName,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to execute.", show_default=False)],
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Hand standard input on to the command.")
    ] = False,
    terminal: Annotated[bool, typer.Option("-t", "--tty", help="Give the command a terminal.")] = False,
    env: Annotated[list[str] | None, typer.Option("-e", "--env", help="NAME=VALUE; may be repeated.")] = None,
    workdir: Annotated[
        str | None, typer.Option("-w", "--workdir", help="The directory to start in.", show_default="the container's")
    ] = None,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
) -> None:
    """Execute a command in a running container of `woodfrog run`. Snapshots do not include it.

    Exit code: the command's own. 125: it could not be started. 126: it cannot be executed. 127: there is no such command.
    """
    with telling(run_command.exit_code):
        variables = [parse_env(text, DEFAULT_VARIABLE) for text in env or ()]
        words = command[1:] if command[0] == "--" else command
        if not words or words[0].startswith("-"):
            raise BadInputError(
                "CMD", "no command is given; options stand before the id: `woodfrog exec -it ID -- CMD`"
            )
        if terminal and not sys.stdin.isatty():
            raise BadInputError("--tty", "standard input is not a terminal; leave -t out")
        if workdir is not None and not workdir.startswith("/"):
            raise BadInputError("--workdir", f"{workdir!r} is not an absolute path")
        described = state_of(state_dir).described()
        found = _running(described, namespace, container)
        options = [
            *(("--tty",) if terminal else ()),
            *(word for name, value in variables for word in ("--env", f"{name}={value}")),
            *(("--cwd", workdir) if workdir is not None else ()),
        ]
        code = _execute(described, found, options, words, stdin=interactive or terminal)
    raise typer.Exit(code)


def _execute(
    described: Description, found: ContainerStatus, options: list[str], command: list[str], *, stdin: bool
) -> int:
    with tempfile.TemporaryDirectory(prefix="woodfrog-") as folder, _interrupts_passed():
        log = Path(folder) / "log"
        runtime = Runtime(described, found.container_id)
        words = runtime.command("exec", *options, found.container_id, *command, log=log)
        done = subprocess.run(words, stdin=None if stdin else subprocess.DEVNULL, check=False)
        errors = logged(log, "error")
    if done.returncode in {1, _FAILED_TO_EXECUTE} and errors:
        error = errors[-1]
        advice = "`woodfrog ps` shows whether the container still runs."
        failure = command_error(error, command[0]) or Failure("runtime-failed", f"woodfrog-runtime: {error}", advice)
        raise FailureError(failure)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


@contextmanager
def _interrupts_passed() -> Iterator[None]:
    """Leave Ctrl-C to the runtime, which hands it on to the command; it is in our process group."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def kill(
    container: ContainerName,
    signal_name: Annotated[str, typer.Option("-s", "--signal", help="The signal: KILL, USR1, 10.")] = "KILL",
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Send a signal to the first process of a container; KILL ends it at once, and what it did since its last snapshot is lost.

    TERM is the stop signal and takes the final snapshot first, as `woodfrog stop` does.
    """
    with telling():
        name = parse_signal(signal_name)
        described = state_of(state_dir).described()
        found = _running(described, namespace, container)
        Runtime(described, found.container_id).kill(name)
    if output is Form.JSON:
        put_json({"id": found.key.id, "container_id": found.container_id, "signal": name})
    else:
        sys.stdout.write(f"{found.container_id}\n")


def parse_signal(text: str) -> str:
    """Read a signal's name, with or without ``SIG``, or its number.

    Raises:
        BadInputError: naming ``--signal``.
    """
    known = {each.name.removeprefix("SIG"): each for each in signal.Signals}
    match = _SIGNAL_NAME.fullmatch(text.upper())
    name = match[1] if match else ""
    if name.isdecimal() and int(name) in set(known.values()):
        name = signal.Signals(int(name)).name.removeprefix("SIG")
    if name not in known:
        raise BadInputError("--signal", f"{text!r} is not a signal, such as TERM, SIGUSR1 or 9")
    return name


def _running(described: Description, namespace: str, name: str) -> ContainerStatus:
    """Find the container of that name that runs, or the newest one of the id.

    Raises:
        FailureError: ``not-running``; ``engine-container`` if another engine has it.
        InvalidIdError: if it can be neither.
    """
    key = CheckpointKey.checked(described.cluster, namespace, name)
    found = [
        each
        for each in client.containers(described.socket)
        if (each.key == key or each.container_id == name) and each.state in _ALIVE
    ]
    if not found:
        cause = f"no container of the id, or of the name, {name} runs on this node"
        raise FailureError(Failure("not-running", cause, "`woodfrog ps` shows what runs."))
    newest = max(found, key=lambda each: each.incarnation)
    if not Path(newest.bundle).is_relative_to(described.containers):
        cause = f"container {newest.container_id} of {newest.key.id} was started by another engine"
        advice = (
            "Use that engine's own verb: `docker exec`, `podman exec`, `crictl exec`, `ctr task exec`, or its `kill`."
        )
        raise FailureError(Failure("engine-container", cause, advice))
    return newest
