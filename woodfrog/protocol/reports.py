"""Reports: a worker's word on what happened on its node, carried by the REPORTS stream.

A report asserts one event. The worker writes it to its journal before sending it and sends it until the broker confirms,
under the same ``report_id``; the control plane records it once.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from woodfrog.protocol.events import ReportedEvent
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.ids import NodeName, WorkerId
from woodfrog.protocol.node_status import NodeStatus


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event as its witness tells it. ``at`` is the node's clock."""

    report_id: UUID
    node: NodeName
    worker_id: WorkerId
    at: datetime
    event: ReportedEvent
    trace: str = ""
    """What it is a part of, as W3C's ``traceparent``; nothing depends on it."""


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sign of life, sent every few seconds outside any stream and never recorded; silence is what gets recorded."""

    node: NodeName
    worker_id: WorkerId
    boot_id: str
    facts: NodeFacts
    confirmed: tuple[UUID, ...] = ()
    """Reports that the broker has confirmed and the worker still keeps; a request is answered by :class:`Vouched`."""
    at: datetime | None = None
    """The node's clock."""
    status: NodeStatus | None = None
    """What the worker says of itself, for people. A control plane that does not know it passes it over."""


class Vouched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the reports that a heartbeat names; of those in neither list nothing is known yet."""

    settled: tuple[UUID, ...]
    """In the log, or refused with a reason: need not be kept."""
    missing: tuple[UUID, ...]
    """Nowhere, not even on their way: the broker has lost them, and they shall be sent again."""
    at: datetime | None = None
    """The control plane's clock, by which the deadlines of commands are meant."""
    forgotten: tuple[UUID, ...] = ()
    """Of the settled: refused, because their ids were forgotten. What they say was stored is named by no event, ever."""
