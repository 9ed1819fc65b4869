"""Reports: a worker's word on what happened on its node, carried by the REPORTS stream.

A report asserts one event. The worker writes it to its journal before sending it and sends it until the broker confirms,
under the same ``report_id``; the control plane records it once.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from protocol.events import ReportedEvent
from protocol.facts import NodeFacts
from protocol.ids import NodeName, WorkerId


class Report(msgspec.Struct, frozen=True):
    """One event as its witness tells it. ``at`` is the node's clock."""

    report_id: UUID
    node: NodeName
    worker_id: WorkerId
    at: datetime
    event: ReportedEvent


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life, sent every few seconds outside any stream and never recorded; silence is what gets recorded."""

    node: NodeName
    worker_id: WorkerId
    boot_id: str
    facts: NodeFacts
