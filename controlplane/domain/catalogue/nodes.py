"""What follows from the events of nodes. Of an earlier life of the worker nothing follows for the present one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain.catalogue.entry import NodeEntry, Row
from controlplane.domain.state import REMEMBERED, NodeState
from woodfrog.protocol import wire
from woodfrog.protocol.events.nodes import (
    NodeClockMeasured,
    NodeEnding,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
)


def _registered(known: NodeState, event: NodeRegistered, at: datetime) -> NodeState:
    earlier = known.earlier_workers
    if known.worker_id != event.worker_id:
        earlier = (*earlier, known.worker_id)[-REMEMBERED:]
    ending = known.ending_since  # Kubernetes has its reasons, whichever worker lives there
    return NodeState(
        event.worker_id,
        event.facts,
        event.boot_id,
        since=at,
        ending_since=ending,
        earlier_workers=earlier,
        journal=event.journal or known.journal,
    )


def _registered_row(event: NodeRegistered, at: datetime) -> Row:
    facts = event.facts
    models = dict.fromkeys(gpu.model for gpu in facts.gpus if gpu.model)
    memory_bytes = [gpu.memory_bytes for gpu in facts.gpus if gpu.memory_bytes is not None]
    return {
        "boot_id": event.boot_id,
        "registered_at": at,
        "architecture": facts.architecture,
        "kernel_release": facts.kernel_release,
        "page_size_bytes": facts.page_size_bytes,
        "cgroup_version": facts.cgroup_version,
        "cpu_model": facts.cpu_model,
        "criu_version": facts.criu_version,
        "runc_version": facts.runc_version,
        "gpu_driver": facts.gpu_driver,
        "gpu_count": len(facts.gpus),
        "gpu_models": ", ".join(models) or None,
        "gpu_memory_bytes": sum(memory_bytes) if memory_bytes else None,
        "gpus": wire.encode(facts.gpus).decode() if facts.gpus else None,
        "store": facts.store,
    }


def _lost(known: NodeState, event: NodeLost, at: datetime) -> NodeState:
    return replace(known, lost=True, since=at) if known.worker_id == event.worker_id else known


def _lost_row(event: NodeLost, at: datetime) -> Row:
    return {"status": "lost", "lost_at": at, "silent_seconds": event.silent_seconds}


def _returned(known: NodeState, event: NodeReturned, at: datetime) -> NodeState:
    return replace(known, lost=False, since=at) if known.worker_id == event.worker_id else known


def _returned_row(_event: NodeReturned, at: datetime) -> Row:
    return {"status": "ready", "returned_at": at}


def _clock_measured(known: NodeState, event: NodeClockMeasured, _at: datetime) -> NodeState:
    if known.worker_id != event.worker_id:
        return known
    return replace(known, clock_offset_seconds=event.offset_seconds)


def _clock_measured_row(event: NodeClockMeasured, _at: datetime) -> Row:
    return {"clock_offset_seconds": event.offset_seconds}


def _ending(known: NodeState, _event: NodeEnding, at: datetime) -> NodeState:
    return replace(known, ending_since=known.ending_since or at)


def _spared(known: NodeState, _event: NodeSpared, _at: datetime) -> NodeState:
    return replace(known, ending_since=None)


ENTRIES: Final[tuple[NodeEntry[Any], ...]] = (
    NodeEntry(event=NodeRegistered, state=_registered, row=_registered_row, begins=True),
    NodeEntry(event=NodeLost, state=_lost, row=_lost_row),
    NodeEntry(event=NodeReturned, state=_returned, row=_returned_row),
    NodeEntry(event=NodeClockMeasured, state=_clock_measured, row=_clock_measured_row),
    NodeEntry(event=NodeEnding, state=_ending),
    NodeEntry(event=NodeSpared, state=_spared),
)
