"""Identifiers, and the one place that says which text may be one.

A checkpoint id is written by a user into a pod manifest and later becomes part of stream names, object-store keys, NATS
subjects and directory names. It is therefore checked once, here, where it enters; everything behind takes a
:class:`CheckpointKey` and need not ask again.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import NewType

import msgspec

SnapshotId = NewType("SnapshotId", str)
"""``20261123T214501Z-5f3a9c1e``: the UTC second of the dump and eight random hex digits; sorts by time, safe as a file name."""
CommandId = NewType("CommandId", str)
ContainerId = NewType("ContainerId", str)
"""The id that the container engine gave to runc; unique on its node only."""
NodeName = NewType("NodeName", str)
WorkerId = NewType("WorkerId", str)
"""One life of a node worker: a fresh UUID at each start, so that a late word from an earlier life can be told apart."""
IncarnationNumber = NewType("IncarnationNumber", int)
"""One start of a container under a key: 1, 2, 3 …; each supersedes the one before."""
Position = NewType("Position", int)
"""An event's place in the one global order: 1, 2, 3 … without gaps."""
Version = NewType("Version", int)
"""An event's place in its own stream: 1, 2, 3 … without gaps."""
Epoch = NewType("Epoch", int)
"""Which leadership wrote an event; a later leader has a higher one."""

EVENT_NAMESPACE = uuid.UUID("6f9f2f0c-2f0b-5a3e-9a55-0d2b1f3f7a10")
"""The UUIDv5 namespace of event ids (RFC 9562 §5.5): the same source and ordinal always give the same event id."""

MAX_ID_LENGTH = 253
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)

CONTAINER_ID = re.compile(r"(?!\.{1,2}$)[\w+.-]{1,253}", re.ASCII)
"""What runc allows for a container's id (validateID in libcontainer/factory_linux.go), as long as a file name may be."""


class InvalidIdError(ValueError):
    """A text that may not be an id. ``field`` names where it was written, the message says what is wrong with it."""

    def __init__(self, field: str, text: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        super().__init__(
            f"{field} {shown!r} {problem}; an id is 1 to {MAX_ID_LENGTH} letters, digits, '.', '_' or '-', "
            "and starts and ends with a letter or a digit"
        )


def check_id(text: str, field: str) -> str:
    """Return ``text`` if it may be an id, or a part of a key.

    Raises:
        InvalidIdError: naming ``field`` and the rule that the text breaks.
    """
    if not text:
        raise InvalidIdError(field, text, "is empty")
    if len(text) > MAX_ID_LENGTH:
        raise InvalidIdError(field, text, f"has {len(text)} characters")
    if not _ID.fullmatch(text):
        odd = next((character for character in text if not re.fullmatch(r"[A-Za-z0-9._-]", character, re.ASCII)), None)
        problem = f"contains {odd!r}" if odd is not None else "starts or ends with a punctuation mark"
        raise InvalidIdError(field, text, problem)
    return text


class CheckpointKey(msgspec.Struct, frozen=True, gc=False, order=True):
    """A user's id in its scope. Two namespaces may use the same id and never see each other's snapshots."""

    cluster: str
    namespace: str
    id: str

    @classmethod
    def checked(cls, cluster: str, namespace: str, checkpoint_id: str) -> CheckpointKey:
        """Build a key from what users and pods wrote.

        Raises:
            InvalidIdError: naming the part that may not be one.
        """
        return cls(
            check_id(cluster, "cluster"), check_id(namespace, "namespace"), check_id(checkpoint_id, "checkpoint id")
        )

    def __str__(self) -> str:
        return f"{self.cluster}/{self.namespace}/{self.id}"


def new_snapshot_id(now: datetime) -> SnapshotId:
    """Name a snapshot whose dump begins at ``now``."""
    return SnapshotId(f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}")


def event_id(source: str, ordinal: int) -> uuid.UUID:
    """Name the ``ordinal``-th event that ``source`` (a report id, a request id, a timer's due time) gave rise to.

    Deterministic, so that a redelivered message leads to the same event id and the log can refuse the second copy.
    """
    return uuid.uuid5(EVENT_NAMESPACE, f"{source}#{ordinal}")
