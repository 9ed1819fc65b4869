"""Adding one runtime to the configuration of Docker or Podman, and taking it out again.

Docker has one JSON file (``daemon.json``, dockerd(8)), so a key is added to what an administrator wrote there and everything
else is kept. Podman merges drop-in files table by table (containers.conf(5)), so it gets a file of our own.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from nodeworker.domain.containerd_config import HANDLER

Config = dict[str, Any]

_INDENT: Final = re.compile(r"^\{\s*\n([ \t]+)\"")
_DROP_IN: Final = """\
# Woodfrog's OCI runtime (added by `woodfrog install podman`; `woodfrog uninstall podman` removes this file).
[engine.runtimes]
{handler} = [{runtime}]
"""


class EngineConfigError(ValueError):
    """The configuration cannot be edited; the message says why."""


def parse(text: str) -> Config:
    """Parse a ``daemon.json``; an empty file is an empty configuration, as dockerd takes it.

    Raises:
        EngineConfigError: if it is not a JSON object.
    """
    text = text.removeprefix("\ufeff")
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError as problem:
        raise EngineConfigError(f"it is not valid JSON: {problem}") from problem
    if not isinstance(config, dict) or not isinstance(config.get("runtimes", {}), dict):
        raise EngineConfigError("it is not a JSON object with an object under `runtimes`")
    return config


def path_of(config: Config) -> str | None:
    """Return the path of the runtime of our name, or ``None`` if there is none."""
    runtime = config.get("runtimes", {}).get(HANDLER)
    return None if runtime is None else str(runtime.get("path", "")) if isinstance(runtime, dict) else ""


def add_to_docker(text: str, runtime: str) -> str:
    """Add the runtime to a ``daemon.json``. Text that has it already is returned as it is.

    Raises:
        EngineConfigError: if it is not valid, or has another runtime of that name.
    """
    config = parse(text)
    there = path_of(config)
    if there == runtime:
        return text
    if there is not None:
        raise EngineConfigError(f"it has a runtime {HANDLER!r} already, {there or 'without a path'}")
    config["runtimes"] = {**config.get("runtimes", {}), HANDLER: {"path": runtime}}
    return _written(config, text)


def cut_from_docker(text: str, runtime: str, before: str | None) -> str:
    """Take the runtime out of a ``daemon.json``; another one of that name is left alone.

    If nothing else has changed since, the result is ``before`` byte for byte: what the file was when the runtime was added.

    Raises:
        EngineConfigError: if it is not valid.
    """
    config = parse(text)
    if path_of(config) != runtime:
        return text
    del config["runtimes"][HANDLER]
    if before is not None and _same(config, parse(before)):
        return before
    if not config["runtimes"]:
        del config["runtimes"]
    return _written(config, text)


def naming_no_runtime(text: str) -> str:
    """Return a ``daemon.json`` that names its runtimes, even if there are none.

    At a reload dockerd keeps the runtimes that it had unless the file has the key (daemon/reload.go, reloadRuntimes).
    """
    config = parse(text)
    return _written({**config, "runtimes": config.get("runtimes", {})}, text)


def podman_drop_in(runtime: str) -> str:
    """Return the text of Podman's drop-in file."""
    return _DROP_IN.format(handler=HANDLER, runtime=json.dumps(runtime))


def _same(config: Config, before: Config) -> bool:
    return {**config, "runtimes": config["runtimes"]} == {**before, "runtimes": before.get("runtimes", {})}


def _written(config: Config, like: str) -> str:
    """Write JSON with the indentation of ``like``."""
    found = _INDENT.match(like.removeprefix("\ufeff"))
    return json.dumps(config, indent=found[1] if found else 2, ensure_ascii=False) + "\n"
