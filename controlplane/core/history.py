"""The log read as history: proved, exported, and folded up to a moment to ask what was known then.

"As of" is by the time at which an event was *recorded*: what a node knew and had not told yet could bear on no decision.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from controlplane.core import what_if
from controlplane.domain import Policy, State, evolve
from controlplane.domain.event_time import believed
from controlplane.log.archive.writer import Archive
from controlplane.log.chain import Problem
from controlplane.log.eventlog import EventLog
from controlplane.log.progress import Progress
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, NodeName, Position
from woodfrog.protocol.requests import Resolution

_PAGE: Final = 1000
_TRIES: Final = 5


class Proof(msgspec.Struct, frozen=True):
    """What proving a log found."""

    events: int
    """Of how many events positions, versions and hashes were looked at."""
    streams: int
    sound: bool
    problems: tuple[Problem, ...]
    archived: int = 0
    """How many events are archived."""
    whole: bool = True
    """Whether all events were looked at, and so the tables behind the views; else the archive's files were not at hand."""


async def verify(log: EventLog, archive: Archive | None = None, progress: Progress | None = None) -> Proof:
    """Prove positions, versions, hash chains, and that the tables behind the views are what follows from the events.

    ``archive`` has the files of archived events, and ``log`` was opened with them; without, only what the table holds is proved. A log that grows meanwhile is compared again: the rows of an event that came in between are no fault.
    """
    await log.refreshed()
    counted, head = progress or Progress(), await log.head()
    counted.begin(head, passes=2)  # by itself, and folded
    chain = await log.verify(counted) if archive is None else await archive.verify(counted)
    problems = chain.problems
    whole = archive is not None or not chain.archived
    if chain.sound and whole:
        for _ in range(_TRIES):
            before, counted.done = await log.head(), head
            problems = await log.differences(counted)
            if not problems or await log.head() == before:
                break
    return Proof(chain.events, await log.count_streams(), not problems, problems, chain.archived, whole)


async def state_at(log: EventLog, moment: datetime, progress: Progress | None = None) -> State:
    """Fold every event that had been recorded at ``moment``."""
    state, position, counted = State(), Position(0), progress or Progress()
    counted.begin(await log.head())
    while page := await log.read(position, _PAGE):
        for recorded in page:
            if recorded.recorded_at > moment:
                return state
            evolve(state, recorded.event, believed(recorded.occurred_at, recorded.recorded_at))
        position = counted.done = page[-1].position
    return state


async def choose_at(
    log: EventLog, key: CheckpointKey, node: NodeName, moment: datetime, progress: Progress | None = None
) -> Resolution:
    """Say how a new container of ``key`` would have been told to start on ``node`` at ``moment``.

    It is taken to be a container like the last one of the key; see :mod:`controlplane.core.what_if`.

    Raises:
        FailureError: ``unknown-node``, if no worker had registered there.
    """
    state = await state_at(log, moment, progress)
    known = state.nodes.get(node)
    if known is None:
        there = ", ".join(sorted(state.nodes)) or "none"
        cause = f"no worker of node {node} had registered at {moment:%FT%TZ}"
        raise FailureError(Failure("unknown-node", cause, f"Nodes at that time: {there}."))
    return what_if.answer(state, what_if.request_of(state, key, node), moment, Policy())


async def export(
    log: EventLog,
    start: int,
    end: int | None,
    write: Callable[[dict[str, Any]], None],
    progress: Progress | None = None,
) -> None:
    """Give the rows of ``events`` from position ``start`` to ``end``, both included, as the view of that name has them.

    Raises:
        FailureError: ``no-such-position``, if the log does not reach as far; ``log-archived``, if they have been archived.
    """
    head = await log.head()
    last = head if end is None else Position(end)
    if last > head or start > last + 1:
        cause = f"positions {start} to {last} were asked for, the log ends at {head}"
        raise FailureError(Failure("no-such-position", cause, "Ask for positions that exist."))
    after, counted = Position(start - 1), progress or Progress()
    counted.begin(last - after)
    while after < last:
        rows = await log.rows(after, min(_PAGE, last - after))
        if not rows or rows[0]["position"] != after + 1:
            cause = f"the event at position {after + 1} is not in the database"
            raise FailureError(Failure("no-such-position", cause, "Verify the log: `woodfrog log verify`."))
        for row in rows:
            write(row)
        after = rows[-1]["position"]
        counted.done += len(rows)
