"""``woodfrog check``: whether something could be captured and restored, before it matters.

Of what runs, the node's worker is asked, which looks as it does before a dump and freezes nothing. Of a manifest, this machine alone says what
will not work: no cluster is needed, so it fits into CI.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
import yaml

from woodfrog import client
from woodfrog.cli import manifest_rules
from woodfrog.cli.context import reach_of
from woodfrog.cli.ids_of_pods import go_on_with_ids
from woodfrog.cli.manifest_rules import Finding
from woodfrog.cli.options import Namespace, Output, StateDir, key_of, telling, timeout
from woodfrog.dev_state import Reach
from woodfrog.local import dev
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.service.printable import printable

_POLL_SECONDS: Final = 0.1


class Checked(msgspec.Struct, frozen=True):
    """What a worker says of one id: without a failure it could be captured."""

    id: str
    failure: Failure | None


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(check)


def check(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ID|POD]...", help="Checkpoint ids, or pods of a cluster.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option("-f", "--file", help="A manifest, - for standard input; may be repeated.")
    ] = None,
    timeout_seconds: Annotated[float, timeout("Seconds that the worker has to answer.")] = 60.0,
    namespace: Namespace = dev.NAMESPACE,
    state_dir: StateDir = None,
    output: Output = Form.TABLE,
) -> None:
    """Say whether what runs, or what a manifest describes, could be captured and restored. Nothing is frozen.

    Exit code 0 if it could, 1 if something would not work, 2 if the question cannot be answered as asked.
    """
    with telling():
        if bool(names) == bool(file):
            raise BadInputError("check", "name ids or pods that run, or manifests with -f, not both")
        if file:
            good = _of_files(file, output)
        else:
            go_on_with_ids(context, names or [], namespace, state_dir)
            good = _of_names(names or [], namespace, timeout_seconds, state_dir, output)
    raise typer.Exit(0 if good else 1)


def _of_files(files: list[str], output: Form) -> bool:
    found = [each for name in files for each in manifest_rules.findings(list(_documents(name)))]
    if output is Form.JSON:
        put_json(found)
    else:
        for each in found:
            sys.stdout.write(f"{printable(_line(each))}\n")
        if not found:
            sys.stdout.write("nothing speaks against it\n")
    return all(each.severity != "error" for each in found)


def _line(finding: Finding) -> str:
    where = ": ".join(part for part in (finding.object, finding.field) if part)
    failure = Failure(finding.code, finding.cause, finding.advice)
    return f"{finding.severity}: {where}{': ' if where else ''}{failure}"


def _documents(name: str) -> Iterator[Any]:
    """Read a file of YAML or JSON.

    Raises:
        BadInputError: it cannot be read as such.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        yield from yaml.safe_load_all(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as problem:
        raise BadInputError("-f", f"{name} cannot be read: {problem}") from problem


def _of_names(names: list[str], namespace: str, timeout_seconds: float, state_dir: Path | None, output: Form) -> bool:
    reach = reach_of(state_dir)
    checked = [_ask(reach, key_of(reach, name, namespace), timeout_seconds) for name in names]
    if output is Form.JSON:
        put_json(checked)
    else:
        for each in checked:
            says = "could be captured now" if each.failure is None else str(each.failure)
            sys.stdout.write(f"{printable(f'{each.id}: {says}')}\n")
    return all(each.failure is None for each in checked)


def _ask(reach: Reach, key: CheckpointKey, timeout_seconds: float) -> Checked:
    """Have the worker look, and wait for what it says."""
    command_id = client.check(reach, key, timeout_seconds)
    while True:
        (row,) = client.view(reach, "commands", command_id=command_id)
        if row["status"] != "open":
            break
        time.sleep(_POLL_SECONDS)
    return Checked(key.id, None if row["status"] == "succeeded" else client.failure_of(reach, row))
