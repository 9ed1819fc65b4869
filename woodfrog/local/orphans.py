"""Containers whose ``woodfrog run`` was killed: nobody waits for them, and nobody would remove what was made for them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from woodfrog.dev_state import Description
from woodfrog.local.console import say
from woodfrog.local.kept_layers import LAYERS, Layers, read_owner
from woodfrog.local.oci_runtime import Runtime
from woodfrog.local.overlay import ContainerDirectory
from woodfrog.local.overlay import orphans as ownerless
from woodfrog.local.stopping import capture
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import ContainerId

NOTHING_TO_CAPTURE: Final = frozenset({"container-unknown", "not-running"})


def clear(described: Description) -> None:
    """Capture, end and remove containers whose ``woodfrog run`` was killed: nobody would wait for them any more.

    One that runs and cannot be captured is left alone: ending it would throw its work away.
    """
    for directory in ownerless(Path(described.containers)):
        container_id = ContainerId(directory.path.name)
        outcome = capture(described, container_id)
        failure = outcome if isinstance(outcome, Failure) else None
        if failure is None or failure.code in NOTHING_TO_CAPTURE:
            Runtime(described, container_id).delete()
            if failure is not None:
                _keep_layer(described, directory)
            directory.remove()
        else:
            directory.unlock()
            say(
                f"woodfrog: the `woodfrog run` of container {container_id} was killed, and it cannot be captured: {failure}"
            )
            say(f"woodfrog: {container_id} runs on; `woodfrog stop` ends it")


def _keep_layer(described: Description, directory: ContainerDirectory) -> None:
    """Keep the layer of a container that ended while nobody waited for it, as far as its bundle says whose it is."""
    with suppress(OSError, FailureError):
        found = read_owner(directory.path, described)
        if found is not None:
            directory.unmount()
            why = "its `woodfrog run` was killed and it had ended"
            Layers(Path(described.state_dir) / LAYERS).keep(
                directory.upper, found[0], directory.path.name, found[1], why
            )


def remove_all(described: Description) -> None:
    """End and remove the containers whose `woodfrog run` is gone, whatever they do, without a last snapshot."""
    for directory in ownerless(Path(described.containers)):
        Runtime(described, directory.path.name).delete()
        directory.remove()
