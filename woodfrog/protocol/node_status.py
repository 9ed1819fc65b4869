"""What a node worker says of itself with every sign of life: its node's self-test, its disk, and what it does now.

Nobody decides by it and nothing of it is recorded: it is shown to people, who want to know why a node does not start or does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.wire import time_problem

MOST_WORK = 50
"""How much of what it does a worker names: the oldest."""


class SelfTest(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a node's last self-test ended."""

    at: datetime
    """The node's clock."""
    step: str = ""
    """The one that failed; empty if none did."""
    failure: Failure | None = None


class DiskSpace(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file system that a worker's state lies on."""

    total_bytes: int
    free_bytes: int
    """What it may still write there."""
    reserved_bytes: int = 0
    """Of those, what dumps and fetches have reserved and not written yet."""
    waiting_captures: int = 0
    """Captures that lie on this node only, because the store does not take them."""
    waiting_bytes: int = 0


class Work(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a worker is doing for an id."""

    kind: str
    """``start``, ``dump`` until the capture is complete and ``store`` from then on, or the kind of a command."""
    key: CheckpointKey
    since: datetime
    """The node's clock."""
    doing: str = ""
    """How far it is, for people."""


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it. ``None`` means unknown."""

    self_test: SelfTest | None = None
    disk: DiskSpace | None = None
    work: tuple[Work, ...] = ()
    """What it does now, the oldest first."""
    more_work: int = 0
    """How much else it does."""


def is_sound(status: NodeStatus) -> bool:
    """Whether every time in it can be placed, and every amount can be one."""
    disk = status.disk
    amounts = () if disk is None else (getattr(disk, name) for name in DiskSpace.__struct_fields__)
    return all(time_problem(at) is None for at in _times(status)) and all(
        0 <= amount < 1 << 63 for amount in (*amounts, status.more_work)
    )


def _times(status: NodeStatus) -> Iterator[datetime]:
    if status.self_test is not None:
        yield status.self_test.at
    for work in status.work:
        yield work.since
