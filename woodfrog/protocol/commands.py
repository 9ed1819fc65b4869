"""Commands: what the control plane asks of one worker, once, by id.

Decoded strictly: a worker refuses a command with a field that it does not know, rather than doing half of what was meant.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from woodfrog.protocol.ids import CheckpointKey, CommandId, ContainerId, IncarnationNumber, NodeName, SnapshotId


class DumpCommand(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="dump"):
    """Dump a running container and leave it running. Void after ``deadline``, and for any other incarnation."""

    command_id: CommandId
    node: NodeName
    key: CheckpointKey
    incarnation: IncarnationNumber
    container_id: ContainerId
    issued_at: datetime
    deadline: datetime
    scheduled: bool = False
    """Whether the id's interval asked for it, and no person."""


class DeleteCommand(
    msgspec.Struct,
    frozen=True,
    gc=False,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    tag="delete",
):
    """Remove an expired snapshot from the store. Any node with that store can. Void after ``deadline``."""

    command_id: CommandId
    node: NodeName
    key: CheckpointKey
    incarnation: IncarnationNumber
    """The one that the snapshot was taken of."""
    snapshot_id: SnapshotId
    issued_at: datetime
    deadline: datetime
    store: str | None = None
    """Identity of the store that holds it, if it is known; a worker that has another refuses. Sent only to workers that know it."""


class PrefetchCommand(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="prefetch"
):
    """Lay a snapshot ready on a node that is about to get the id's next container. Void after ``deadline``.

    It is no promise that the container comes, nor that this snapshot will be chosen for it; nothing depends on it.
    """

    command_id: CommandId
    node: NodeName
    key: CheckpointKey
    incarnation: IncarnationNumber
    """The one that the snapshot was taken of."""
    snapshot_id: SnapshotId
    manifest_digest: str
    issued_at: datetime
    deadline: datetime


class CheckCommand(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="check"):
    """Say whether a running container could be dumped and restored, and what speaks against it. Nothing is frozen or written."""

    command_id: CommandId
    node: NodeName
    key: CheckpointKey
    incarnation: IncarnationNumber
    container_id: ContainerId
    issued_at: datetime
    deadline: datetime


class StoreCommand(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="kind", tag="store"):
    """Try at once to store a capture that waits for the store on this node. Void after ``deadline``.

    It ends with that try: in success if the capture waits no more, else with why the store did not take it.
    """

    command_id: CommandId
    node: NodeName
    key: CheckpointKey
    incarnation: IncarnationNumber
    """The one that the snapshot was taken of."""
    snapshot_id: SnapshotId
    issued_at: datetime
    deadline: datetime


Command = DumpCommand | DeleteCommand | PrefetchCommand | CheckCommand | StoreCommand
"""All commands."""
