"""``woodfrog install`` and ``uninstall``: Docker or Podman of this machine, with the runtime of ``woodfrog dev``.

The runtime itself lies in the state directory and stays there: whoever runs ``woodfrog dev`` uses it, and containers that run
are stopped through it. What a configuration file was before is kept beside it, to be given back.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from nodeworker.host import docker, podman
from nodeworker.host.containerd import replace
from woodfrog.cli.options import StateDir, state_of, telling
from woodfrog.dev_state import StateDirectory
from woodfrog.local.dev import lay_runtime, refuse_others_than_root


class Engine(StrEnum):
    """What can be given the runtime."""

    DOCKER = "docker"
    PODMAN = "podman"


EngineName = Annotated[
    Engine, typer.Argument(metavar="docker|podman", help="The container engine.", show_default=False)
]
Config = Annotated[
    Path | None,
    typer.Option(help="The file to change.", show_default=f"{docker.CONFIG}, or {podman.DROP_IN}"),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (install, uninstall):
        app.command()(verb)


def install(engine: EngineName, config: Config = None, state_dir: StateDir = None) -> None:
    """Give Docker or Podman the runtime `cedana`. Repeating it changes nothing."""
    with telling():
        refuse_others_than_root()
        state = state_of(state_dir)
        state.make()
        lay_runtime(state)
        if engine is Engine.DOCKER:
            path = (config or docker.CONFIG).absolute()
            changed = _install_in_docker(state, path)
        else:
            path = (config or podman.DROP_IN).absolute()
            changed = podman.install(state.runtime, path)
    _say(
        f"{path} now names the runtime cedana, {state.runtime}"
        if changed
        else f"{path} names the runtime cedana already"
    )
    _say(f"run containers with `{engine} run --runtime cedana -e CEDANA_CHECKPOINT=<id> …`, while `woodfrog dev` runs")


def uninstall(engine: EngineName, config: Config = None, state_dir: StateDir = None) -> None:
    """Take the runtime `cedana` away from Docker or Podman, and leave its configuration as it was."""
    with telling():
        refuse_others_than_root()
        state = state_of(state_dir)
        if engine is Engine.DOCKER:
            path = (config or docker.CONFIG).absolute()
            changed = docker.uninstall(state.runtime, path, _remembered(state).get(str(path), "{}\n"))
            _forget(state, path)
        else:
            path = (config or podman.DROP_IN).absolute()
            changed = podman.uninstall(path)
    _say(f"the runtime cedana was taken out of {path}" if changed else f"{path} does not name the runtime cedana")


def _install_in_docker(state: StateDirectory, path: Path) -> bool:
    """Give Docker the runtime. What its file was is written down before it is changed, whoever is killed when."""
    known = str(path) in _remembered(state)
    if not known:
        _remember(state, path, docker.read(path))
    changed = False
    try:
        changed = docker.install(state.runtime, path)
    finally:
        if not changed and not known:
            _forget(state, path)
    return changed


def _records(state: StateDirectory) -> Path:
    return state.path / "engines.json"


def _remembered(state: StateDirectory) -> dict[str, str | None]:
    """Return what each file was before it was changed; ``None`` for one that did not exist."""
    try:
        return msgspec.json.decode(_records(state).read_bytes(), type=dict[str, str | None])
    except FileNotFoundError:
        return {}


def _remember(state: StateDirectory, path: Path, before: str | None) -> None:
    replace(_records(state), msgspec.json.encode({**_remembered(state), str(path): before}))
    _records(state).chmod(0o600)


def _forget(state: StateDirectory, path: Path) -> None:
    left = {name: before for name, before in _remembered(state).items() if name != str(path)}
    if left:
        replace(_records(state), msgspec.json.encode(left))
    else:
        _records(state).unlink(missing_ok=True)


def _say(text: str) -> None:
    sys.stderr.write(f"woodfrog: {text}\n")
