"""The command line in this process, and the state directory of a stack that was started once and runs no more."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from woodfrog.cli.main import app
from woodfrog.dev_state import Description, StateDirectory


def described(folder: Path) -> Path:
    """Make the state directory."""
    directory = StateDirectory(folder)
    directory.describe(
        Description(
            state_dir=str(folder),
            nats_url="nats://127.0.0.1:1",
            socket=str(directory.run / "worker.sock"),
            runtime=str(directory.runtime),
            runc_root=str(directory.run / "runc"),
            containers=str(folder / "containers"),
            store=str(directory.store),
            spool=str(directory.worker / "spool"),
            database=str(directory.database),
            cluster="local",
            namespace="default",
        )
    )
    return folder


def woodfrog(*arguments: str | Path) -> Result:
    """Call a verb."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
