"""What the verbs of the command line have in common: options, tables, and how what goes wrong is told."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane import describe
from woodfrog.dev_state import Reach, StateDirectory, default_state_dir
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Column, Form, ListForm
from woodfrog.protocol import amounts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, InvalidIdError
from woodfrog.service.printable import printable

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="Where `woodfrog dev` keeps everything.  [env: WOODFROG_STATE_DIR]", show_default=False
    ),
]
Output = Annotated[Form, typer.Option("-o", "--output", help="Print a table, or JSON.")]
ListOutput = Annotated[
    ListForm, typer.Option("-o", "--output", help="Print a table, all fields, JSON, YAML, or names alone.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="The newest so many rows.")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="The namespace that the id belongs to.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The checkpoint id.", show_default=False)]
OptionalId = Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this checkpoint id.", show_default=False)]


def _seconds(text: str) -> float:
    """Read a time to wait; `nan` and `inf` are numbers to Python, and nothing that anybody can wait for."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise typer.BadParameter(f"{text!r} is not a number of seconds.")
    return seconds


def timeout(about: str) -> Any:
    """Make the option of a verb that waits."""
    return typer.Option("--timeout", metavar="SECONDS", parser=_seconds, help=about)


def shown(*names: str) -> tuple[Column, ...]:
    """Show these fields of a row, each in the form that its name calls for."""
    return tuple((name.replace("_", " ").upper(), partial(_cell, name)) for name in names)


def _cell(name: str, row: dict[str, Any]) -> Any:
    value = row.get(name)
    if value is None:
        return None
    if name.endswith("_bytes"):
        return amounts.size(value)
    if name.endswith("_seconds"):
        return f"{value:.3f}"
    return describe.moment(value) if name.endswith("_at") else value


@contextmanager
def telling(exit_code: Callable[[Failure], int] = lambda _failure: 1) -> Iterator[None]:
    """Turn what goes wrong into a line on standard error and an exit code."""
    try:
        yield
    except FailureError as problem:
        failure = problem.failure
        sys.stderr.write(f"woodfrog: {printable(str(failure))}\n")
        if failure.detail:
            sys.stderr.write("".join(f"    {line}\n" for line in failure.detail.splitlines()))
        raise typer.Exit(exit_code(failure)) from problem
    except (BadInputError, InvalidIdError) as problem:
        sys.stderr.write(f"woodfrog: {printable(str(problem))}\n")
        raise typer.Exit(2) from problem


def state_of(path: Path | None) -> StateDirectory:
    """Find the state directory that was named, or the default."""
    return StateDirectory(path or default_state_dir())


def key_of(reach: Reach, checkpoint_id: str, namespace: str) -> CheckpointKey:
    """Make the key of an id as somebody wrote it.

    Raises:
        InvalidIdError: naming what may not be an id.
    """
    return CheckpointKey.checked(reach.cluster, namespace, checkpoint_id)
