"""Dumps of what runs on a node that is about to end: a spot notice, maintenance, a drain that has begun with a cordon.

Each container is dumped once, and left running: it may be stopped in an orderly way yet, and is then dumped again. Only so many
at a time, because all of them at once would share one disk and one network and none might be done in time. Those that were
told to end are left alone: their own stop has them dumped. Since a drain tells them so in the second after its cordon, nothing is
done for a moment after the notice: a dump begun then would only hold up the one that counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from controlplane.domain.pods import ending_until
from controlplane.domain.state import Incarnation, KeyState, State
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.ids import CheckpointKey, NodeName

SETTLING = timedelta(seconds=3)
"""How long after the notice nothing is dumped. The shortest notice that a cloud gives of a node's end is 30 s."""

_NEVER = datetime.min.replace(tzinfo=UTC)


def to_be_dumped(
    state: State, share: Iterable[tuple[CheckpointKey, KeyState]], now: datetime, dumps_per_node: int
) -> Iterator[tuple[CheckpointKey, Incarnation]]:
    """Choose, of some keys, the containers on ending nodes whose turn has come: whoever has most to lose first."""
    ending = {
        name
        for name, node in state.nodes.items()
        if node.ending_since is not None and now >= node.ending_since + SETTLING and not node.lost
    }
    if not ending:
        return
    free = dict.fromkeys(ending, dumps_per_node)
    for command in state.commands.values():
        if isinstance(command, DumpCommand) and command.node in free and _is_under_way(state, command):
            free[command.node] -= 1
    waiting: list[tuple[datetime, CheckpointKey, Incarnation, NodeName]] = []
    for name, key in share:
        start = key.running
        if start is None or start.node not in ending or start.dump_command is not None:
            continue
        since = state.nodes[start.node].ending_since
        assert since is not None
        if start.dump_asked_at is not None and start.dump_asked_at >= since:
            continue
        under_way = any(dump.incarnation == start.number and dump.is_under_way for dump in key.snapshots.values())
        if under_way or ending_until(key, start) is not None:
            continue
        waiting.append((start.dump_asked_at or _NEVER, name, start, start.node))
    for _, name, start, node in sorted(waiting, key=lambda one: (one[0], one[1])):
        if free[node] > 0:
            free[node] -= 1
            yield name, start


def _is_under_way(state: State, command: DumpCommand) -> bool:
    """Whether the dump takes a place on its node; one whose capture waits for the store does not."""
    start = state.keys.get(command.key, KeyState()).incarnations.get(command.incarnation)
    return start is not None and start.dump_command == command.command_id
