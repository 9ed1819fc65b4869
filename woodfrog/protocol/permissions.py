"""What a node's worker may say and hear on NATS: one list, however the broker learns who it is.

A list in the server's configuration (``woodfrog/isolation``) and an answer to the server's question (the control plane's
authorization service) both come from here, so a node has the same rights in either.
"""

from __future__ import annotations

from typing import Final

import msgspec

from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName

NODES_ACCOUNT: Final = "NODES"
"""The account that all nodes share; it sees nothing of the control plane's but what that exports."""


class Permissions(msgspec.Struct, frozen=True):
    """Subjects that may be published to and subscribed to; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def of_node(node: NodeName) -> Permissions:
    """Everything that one node may do, within the account NODES."""
    queue = subjects.commands_consumer(node)
    return Permissions(
        publish=(
            subjects.reports(node),
            subjects.heartbeats(node),
            subjects.resolve(node),
            # Answered by the server with "not enabled", since NODES has no JetStream: so the worker knows that it may not look.
            f"$JS.API.CONSUMER.INFO.{subjects.COMMANDS_STREAM}.{queue}",
            f"$JS.API.CONSUMER.MSG.NEXT.{subjects.COMMANDS_STREAM}.{queue}",
            f"$JS.ACK.{subjects.COMMANDS_STREAM}.{queue}.>",
        ),
        subscribe=(f"{subjects.inbox(node)}.>",),
    )
