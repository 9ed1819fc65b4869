"""Which store this is: a mark with an identity, made once, so that an empty directory is not taken for a store that lost everything.

A directory at which a file system should be mounted exists without it, too, and holds nothing. Without the mark, every snapshot
would seem to be missing there; and what is stored there would be hidden as soon as the file system is mounted. So the mark is
read whenever something depends on which store it is, and the worker remembers, per place, which one it was.

A bucket has no such state: it is there or it refuses. Its mark may be removed by a rule that removes old objects, so a worker that
knows it writes it again.
"""

from __future__ import annotations

import re
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3

from nodeworker.store.object_store import DirectoryObjects, Objects
from woodfrog.protocol.failures import SNAPSHOT_MISSING, Failure, FailureError

_log = structlog.get_logger(component="store")

MARK: Final = "woodfrog-store"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_MOST_BYTES: Final = 64


class StoreIdentity:
    """The mark of one store. Every method blocks and may be called from any thread."""

    def __init__(self, objects: Objects, place: str, remembered: Path | None = None) -> None:
        """``place`` names the store as its settings do; in the folder ``remembered`` this node keeps which store was there."""
        self._objects = objects
        self._place = place
        self._memory = None if remembered is None else remembered / f"store-{blake3(place.encode()).hexdigest(8)}"
        self._lock = threading.Lock()
        self.last = self._remembered()
        """The identity as it was last known; ``None`` if it never was."""

    def read(self) -> str:
        """Return the store's identity as its mark gives it now. A store that never had a mark, as far as is known, is given one.

        Raises:
            FailureError: ``store-not-mounted``, ``store-mark-invalid``, or why the store refuses.
            OSError: the store cannot be read.
        """
        with self._lock:
            identity = self._marked() or self._new()
            self._remember(identity)
            self.last = identity
            return identity

    def _marked(self) -> str | None:
        if MARK not in self._objects.names(
            ""
        ):  # a list is refused in words, where the look at one object has none (HTTP's HEAD)
            return None
        try:
            reader = self._objects.open(MARK, fresh=True)
        except FailureError as problem:
            if problem.failure.code != SNAPSHOT_MISSING:
                raise
            return None
        try:
            data = bytes(reader.read(0, reader.size_bytes)) if reader.size_bytes <= _MOST_BYTES else b""
        finally:
            reader.close()
        text = data.decode("ascii", errors="replace").strip()
        if _UUID.fullmatch(text) is None:
            cause = f"the object {MARK} of the store {self._place} does not hold an identity"
            advice = (
                "Put the right one back; a node that used the store has it in its state directory, in a file `store-…`."
            )
            raise FailureError(Failure("store-mark-invalid", cause, advice))
        return text

    def _new(self) -> str:
        """Mark the store, unless it is known that another store should be there."""
        known = self._remembered()
        if known is not None and isinstance(self._objects, DirectoryObjects):
            raise FailureError(
                Failure(
                    "store-not-mounted",
                    f"{self._place} has no object {MARK}, and was the store {known} before",
                    "Mount the store's file system there. If the store was emptied on purpose, remove "
                    f"{self._memory} on this node, and a new store begins.",
                )
            )
        identity = known or str(uuid.uuid4())
        writer = self._objects.create("")
        try:
            writer.write(f"{identity}\n".encode())
            writer.commit(MARK, exclusive=True)
        except FileExistsError:  # another node was faster: the mark is the store's
            writer.abort()
            return self._marked() or identity
        except BaseException:
            writer.abort()
            raise
        self._objects.settle("")
        _log.info("the store is marked", store=identity, place=self._place)
        return identity

    def _remembered(self) -> str | None:
        with suppress(OSError):
            text = "" if self._memory is None else self._memory.read_text(errors="replace").strip()
            return text if _UUID.fullmatch(text) else None
        return None

    def _remember(self, identity: str) -> None:
        if self._memory is None or identity == self._remembered():
            return
        with suppress(OSError):
            partial = self._memory.with_name(f"{self._memory.name}.new")
            partial.write_text(f"{identity}\n")
            partial.rename(self._memory)
