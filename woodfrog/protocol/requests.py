"""Requests: questions that somebody waits for, asked of the control plane over NATS request and reply.

A worker asks how to start a container; people ask for a checkpoint and for what the log says. Each question has one
subject (:mod:`woodfrog.protocol.subjects`), one request Struct and a reply that is its answer or a :class:`Refusal`.

A field that the reader does not know is passed over. A field without which a request would mean another thing raises
its version; a version that the reader does not know is refused. Version 1 is not written, for readers of before.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.privileges import Privileges

REQUEST_VERSION: Final = 1
"""What a request is written as that means the same to every reader."""
FRESH_VERSION: Final = 2
"""What a question is written as whose container asks for a fresh start."""
CHECK_VERSION: Final = 3
"""What a request is written as that asks for a look in place of a dump."""
FILTER_VERSION: Final = 4
"""What a query is written as that wants some events only."""
GIVEN_UP_VERSION: Final = 5
"""What a question is written as whose start was given up: who does not know it must not open one."""
NEWEST_VERSION: Final = GIVEN_UP_VERSION
"""The newest that is understood."""


class ResolveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """How shall this container start? Asked again, with the same container id, after a wait or a failed restore.

    ``reports_sequence`` is the REPORTS stream sequence of the asking worker's last confirmed report: the answer takes
    everything up to it into account, so a worker never overtakes its own words.
    """

    key: CheckpointKey
    container_id: ContainerId
    node: NodeName
    worker_id: WorkerId
    facts: NodeFacts
    container: ContainerFacts
    reports_sequence: int
    version: int = REQUEST_VERSION
    wrapped_key: str = ""
    """What lies beside the snapshot that was chosen before, if that is sealed with a key of its own: see ``woodfrog/service/data_keys.py``."""
    create_id: str = ""
    """Names the create that it is about, whenever it comes: a question about one that is over opens no other start, though engines use
    container ids again. Older workers do not say it."""
    given_up: bool = False
    """Of version :data:`GIVEN_UP_VERSION`: nobody starts the container any more, and its worker wants to know which start the log has opened
    for it, to say that it came to nothing. The answer is a :class:`Refusal` with that number, or 0."""


class _Answer(msgspec.Struct, frozen=True, tag_field="answer", kw_only=True):
    pass


class RestoreFrom(_Answer, frozen=True, tag="restore"):
    """Go on from this snapshot; its manifest must have this BLAKE3 digest."""

    incarnation: IncarnationNumber
    snapshot_id: SnapshotId
    manifest_digest: str
    reason: str
    bounded: bool = True
    """Whether its processes may hold no more than the new container's spec allows; else the cluster's policy says so."""
    recorded: Privileges | None = None
    """What its processes held, as the worker recorded it that took it; None if that is not known."""
    left: int = 0
    """How many newer snapshots with captured or stored work are left behind."""
    data_key: str = ""
    """The key that was unwrapped, if the question showed one of this very snapshot."""
    unstored: bool = False
    """Whether it lies on the asking node only, and the digest is that of the capture there: the store has nothing of it."""


class StartCold(_Answer, frozen=True, tag="cold"):
    """Start from the image. ``unusable`` counts the snapshots that were valid, are still there and cannot be resumed from."""

    incarnation: IncarnationNumber
    reason: str
    unusable: int = 0
    left: int = 0
    """How many snapshots with captured or stored work are left behind, also by a start that somebody wanted so."""


class WaitFor(_Answer, frozen=True, tag="wait"):
    """Ask again soon, and no later than ``until``. The control plane has held the question for a moment before it said so."""

    incarnation: IncarnationNumber
    waiting_for: str
    until: datetime


class Refusal(_Answer, frozen=True, tag="refused"):
    """The question cannot be answered; nothing was changed."""

    failure: Failure
    incarnation: IncarnationNumber = IncarnationNumber(0)
    """Of the start, if an earlier question has opened it."""


Resolution = RestoreFrom | StartCold | WaitFor | Refusal


class CheckpointRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Dump the running container of this key and leave it running; or only say whether that could be done."""

    key: CheckpointKey
    timeout_seconds: float = 600.0
    version: int = REQUEST_VERSION
    only_check: bool = False
    """Of version :data:`CHECK_VERSION`: who does not know it must not dump."""
    by: str = ""
    """Who asks, as whoever passes the request on knows them; the command line does not say."""


class CommandAccepted(_Answer, frozen=True, tag="accepted"):
    """The command is in the log; ask the ``commands`` view how it ends."""

    command_id: CommandId


class SnapshotRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Decide about one snapshot, of whichever id of the namespace it is.

    ``pin`` and ``unpin`` it; ``invalidate`` it: never choose it again; ``retry`` it: choose it as if no restore of it had failed, or if it is not stored yet, try at once to store it; ``delete`` it from the store. ``force`` deletes it
    even if it is the latest valid one of its id.
    """

    cluster: str
    namespace: str
    snapshot_id: SnapshotId
    wish: Literal["pin", "unpin", "invalidate", "retry", "delete"]
    because: str = ""
    force: bool = False
    version: int = REQUEST_VERSION
    by: str = ""
    """As in :class:`CheckpointRequest`."""


class ImportRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Take a snapshot into the log that whoever asks has put into the store, read back and checked.

    With ``only_check`` nothing is recorded: asked before the bytes are put there, it says whether they would be taken.
    """

    key: CheckpointKey
    snapshot_id: SnapshotId
    origin: str
    manifest_digest: str
    raw_bytes: int
    stored_bytes: int
    taken_at: datetime
    taken_on: NodeFacts
    taken_from: ContainerFacts
    because: str = ""
    only_check: bool = False
    version: int = REQUEST_VERSION


class ForgetRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Delete every snapshot of an id, and forget the id once the store holds nothing of it: to be asked until that is so.

    ``force`` does so even if the next start would resume from one of them.
    """

    key: CheckpointKey
    because: str = ""
    force: bool = False
    version: int = REQUEST_VERSION
    by: str = ""
    """As in :class:`CheckpointRequest`."""


class Forgetting(_Answer, frozen=True, tag="forgetting"):
    """Every snapshot of the id is to be deleted; with none left, the id is forgotten."""

    key: CheckpointKey
    left: int
    """How many snapshots the store still holds bytes of."""


class Noted(_Answer, frozen=True, tag="noted"):
    """It is in the log, or was so before."""

    key: CheckpointKey
    snapshot_id: SnapshotId
    command_id: CommandId | None = None
    """What a node was asked to do about it; ask the ``commands`` view how that ends."""


View = Literal[
    "checkpoint_history",
    "latest_snapshots",
    "restore_history",
    "failures",
    "nodes",
    "commands",
    "dead_letters",
    "events",
]
"""The SQL views that may be read over NATS, and ``events``, the log itself."""


def cursor_of(view: View) -> Literal["number", "position"]:
    """Name the column that pages of a view are cut by."""
    return "number" if view == "dead_letters" else "position"


class EventFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which events, or rows of another view, are wanted; what is empty restricts nothing. A page looks at a bounded range of positions only."""

    namespace: str = ""
    """With the cluster of whoever is asked."""
    cluster: str = ""
    node: str = ""
    """The events of the node itself."""
    types: tuple[str, ...] = ()
    since: datetime | None = None
    """Those that were recorded later."""


class QueryRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Read the newest rows of a view, oldest row first; ``key`` restricts it to one key, ``command_id`` to one command.

    With ``before`` the newest of those below that ``position`` or ``number``, see :func:`cursor_of`. A control plane that does not know
    it answers the newest rows again.
    """

    view: View
    key: CheckpointKey | None = None
    command_id: CommandId | None = None
    limit: int = 1000
    version: int = REQUEST_VERSION
    before: int | None = None
    only: EventFilter | None = None
    """Of version :data:`FILTER_VERSION`; ``next`` of the answer is then the ``before`` of the next page. Of other views than ``events`` it
    names a namespace and its cluster only."""
    statuses: bool = False
    """Of the view ``nodes``: whether a row has ``now``, what the node's worker said last. Who does not know it leaves that out."""


class Rows(_Answer, frozen=True, tag="rows"):
    """The rows of a view, as SQL gave them."""

    rows: list[dict[str, Any]]
    next: int | None = None
    """Where the next page begins, of a query with a filter; ``None`` if there is none."""
