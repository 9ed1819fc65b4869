"""What happens to nodes and their workers."""

from __future__ import annotations

from typing import Final

from woodfrog.protocol.events.base import AboutNode
from woodfrog.protocol.facts import NodeFacts

__all__ = [
    "NodeClockMeasured",
    "NodeEnding",
    "NodeEvent",
    "NodeLost",
    "NodeRegistered",
    "NodeReturned",
    "NodeSpared",
    "ReportedNodeEvent",
]


CLOCK_TOLERANCE_SECONDS: Final = 5.0
"""A clock that is kept by NTP is within milliseconds; what is measured over the network is within a second or two."""


class NodeRegistered(AboutNode, frozen=True, tag="node.registered"):
    """A worker began its life on a node and said what the node offers."""

    boot_id: str
    facts: NodeFacts
    journal: str = ""
    """Identity of the worker's journal, which another start of the same node has again; unknown if empty."""

    def __str__(self) -> str:
        return f"worker {self.worker_id} began on node {self.node} (CRIU {self.facts.criu_version or 'unknown'})"


class NodeLost(AboutNode, frozen=True, tag="node.lost"):
    """Nothing was heard of a worker for ``silent_seconds``: nobody waits for its dumps any more."""

    silent_seconds: float

    def __str__(self) -> str:
        return f"nothing was heard of node {self.node} for {self.silent_seconds:.0f} s"


class NodeReturned(AboutNode, frozen=True, tag="node.returned"):
    """A lost worker was heard of again."""

    def __str__(self) -> str:
        return f"node {self.node} was heard of again"


class NodeClockMeasured(AboutNode, frozen=True, tag="node.clock-measured"):
    """The node's clock is ahead of the control plane's by so much, or behind it if negative; recorded when that changes."""

    offset_seconds: float

    def __str__(self) -> str:
        if abs(self.offset_seconds) < CLOCK_TOLERANCE_SECONDS:
            return f"the clock of node {self.node} is right again"
        direction = "ahead" if self.offset_seconds > 0 else "behind"
        return f"the clock of node {self.node} is {abs(self.offset_seconds):.0f} s {direction}"


class NodeEnding(AboutNode, frozen=True, tag="node.ending"):
    """The node is about to be emptied or to end, because of ``reason``: what runs there is dumped while it can be."""

    reason: str

    def __str__(self) -> str:
        return f"node {self.node} is about to be emptied or to end: {self.reason}"


class NodeSpared(AboutNode, frozen=True, tag="node.spared"):
    """The node is not about to end any more."""

    def __str__(self) -> str:
        return f"node {self.node} is not about to end any more"


NodeEvent = NodeRegistered | NodeLost | NodeReturned | NodeClockMeasured | NodeEnding | NodeSpared
ReportedNodeEvent = NodeRegistered
