"""Writable layers of containers of ``woodfrog run`` whose work was not captured: kept, listed, started from, removed.

A database that could not be dumped ends well at its stop signal and has all of its data in its layer. Engines keep the layers of
their containers until somebody removes them; ``woodfrog run`` has no containers that outlive it, so it keeps the layer alone.
What is kept is bounded, the newest first, and nobody but the bounds and ``woodfrog rm`` deletes any of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from nodeworker.runtime import container
from nodeworker.runtime.install import DEFAULT_VARIABLE
from woodfrog.dev_state import Description
from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, InvalidIdError

LAYERS: Final = "layers"
"""Their folder below the state directory."""
MOST: Final = 8
MOST_BYTES: Final = 20 << 30
LONGEST: Final = timedelta(days=14)
_NOTE: Final = "layer.json"
_FILES: Final = "upper"


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One kept layer."""

    layer: str
    """Its name: the container's id."""
    id: str
    namespace: str
    kept_at: datetime
    bytes: int
    rootfs: str
    """The directory that lay below it."""
    why: str
    """Why its container was not captured."""


class Layers:
    """The kept layers of one stack."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Layer]:
        """List them, oldest first."""
        found: list[Layer] = []
        for note in self._folder.glob(f"*/{_NOTE}"):
            with suppress(OSError, wire.MalformedMessageError):
                found.append(wire.decode(note.read_bytes(), Layer))
        return sorted(found, key=lambda layer: layer.kept_at)

    def of(self, key: CheckpointKey) -> list[Layer]:
        """List those of an id, oldest first."""
        return [layer for layer in self.all() if (layer.namespace, layer.id) == (key.namespace, key.id)]

    def keep(self, upper: Path, key: CheckpointKey, container_id: str, rootfs: Path, why: str) -> list[Layer] | None:
        """Keep a layer that is not mounted any more; return what had to give way to it, or ``None`` if it is empty.

        Raises:
            OSError: it could not be kept; it is where it was.
        """
        if not upper.is_dir() or not any(upper.iterdir()):
            return None
        with self._alone():
            place = self._folder / container_id
            place.mkdir(mode=0o700, exist_ok=True)
            size_bytes = _occupied(upper)
            upper.rename(place / _FILES)
            layer = Layer(
                layer=container_id,
                id=key.id,
                namespace=key.namespace,
                kept_at=datetime.now(UTC),
                bytes=size_bytes,
                rootfs=str(rootfs),
                why=why,
            )
            (place / _NOTE).write_bytes(wire.encode(layer))
            over = overdue([each for each in self.all() if each.layer != container_id], layer, datetime.now(UTC))
            for each in over:
                shutil.rmtree(self._folder / each.layer, ignore_errors=True)
        return over

    def take(self, key: CheckpointKey, name: str, rootfs: Path, into: Path) -> Layer:
        """Move a kept layer, by its name or the newest of the id, into the place of a container's empty one.

        Raises:
            FailureError: ``no-layer``; ``layer-unfit`` if it lay over another directory.
        """
        with self._alone():
            layer = next((each for each in reversed(self.of(key)) if name in {"", each.layer}), None)
            if layer is None:
                cause = f"no layer {name} of {key.id} is kept" if name else f"no layer of {key.id} is kept"
                raise FailureError(Failure("no-layer", cause, "`woodfrog get layers` lists what is kept."))
            if layer.rootfs != str(rootfs):
                cause = f"layer {layer.layer} lay over {layer.rootfs}, not over {rootfs}"
                raise FailureError(Failure("layer-unfit", cause, f"Give --rootfs {layer.rootfs}."))
            into.rmdir()
            (self._folder / layer.layer / _FILES).rename(into)
            shutil.rmtree(self._folder / layer.layer, ignore_errors=True)
        return layer

    def remove(self, name: str) -> None:
        """Delete a kept layer.

        Raises:
            FailureError: ``no-layer``.
        """
        with self._alone():
            if name not in {each.layer for each in self.all()}:
                raise FailureError(
                    Failure("no-layer", f"no layer {name} is kept", "`woodfrog get layers` lists what is kept.")
                )
            shutil.rmtree(self._folder / name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def overdue(others: list[Layer], newest: Layer, now: datetime) -> list[Layer]:
    """Say which layers, oldest first, go beyond what is kept beside the newest."""
    over: list[Layer] = []
    count, total = 1, newest.bytes
    for layer in sorted(others, key=lambda layer: layer.kept_at, reverse=True):
        count, total = count + 1, total + layer.bytes
        if count > MOST or total > MOST_BYTES or now - layer.kept_at > LONGEST:
            over.append(layer)
    return over[::-1]


def offer(layers: list[Layer]) -> str:
    """Say that the files of earlier containers are kept, and how to start from them."""
    newest = layers[-1]
    more = f" (and {len(layers) - 1} older)" if len(layers) > 1 else ""
    return (
        f"warning: the files of container {newest.layer} are kept{more}, which ended at {newest.kept_at:%Y-%m-%d %H:%M:%S} without "
        f"a snapshot: {newest.why}; `woodfrog run --id {newest.id} --from-layer {newest.layer}` starts from them"
    )


def read_owner(bundle: Path, described: Description) -> tuple[CheckpointKey, Path] | None:
    """Read from a bundle of ``woodfrog run`` whose container it was, and over which directory."""
    try:
        config = wire.decode((bundle / "config.json").read_bytes(), dict[str, Any])
        environment = container.environment(config)
        image = str(config["annotations"]["io.kubernetes.cri.image-name"])
        key = CheckpointKey.checked(described.cluster, described.namespace, environment[DEFAULT_VARIABLE])
    except (OSError, KeyError, TypeError, AttributeError, InvalidIdError, wire.MalformedMessageError):
        return None
    return key, Path(image.removeprefix("dir:"))


def _occupied(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH118 -- as in nodeworker/disk/snapshot_cache.py
    return total
