"""The state as bytes and back, so that a restart need not fold a million events.

A copy is as good as the code that folded it. Its *form* is a digest of the source of everything that has a say in the fold
or in the shape of the state; any change to these, however small, makes every copy void, and the log is folded from its
start. Nobody has to remember to raise a number.

The bytes come in parts of some hundred keys. Encoding one takes milliseconds, so a copy of a large state is taken in a
thread while decisions go on; the state's values are frozen, so that copying three mappings is all that has to be done at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec
from blake3 import blake3
from msgspec.structs import replace

import controlplane.log.upcast
import woodfrog.protocol.commands
import woodfrog.protocol.events
import woodfrog.protocol.facts
import woodfrog.protocol.failures
import woodfrog.protocol.ids
import woodfrog.protocol.pods
import woodfrog.protocol.privileges
from controlplane.domain import state
from controlplane.domain.draft import shared, with_shared_privileges
from controlplane.domain.state import KeyState, NodeState, State, count_usage
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import CommandIssued
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName

_PART_KEYS: Final = 500
_FOLDED_BY: Final[tuple[ModuleType, ...]] = (
    controlplane.log.upcast,
    woodfrog.protocol.commands,
    woodfrog.protocol.events,
    woodfrog.protocol.facts,
    woodfrog.protocol.failures,
    woodfrog.protocol.ids,
    woodfrog.protocol.pods,
    woodfrog.protocol.privileges,
)


class _Part(msgspec.Struct, frozen=True, omit_defaults=True):
    keys: list[tuple[CheckpointKey, KeyState]] = []
    nodes: dict[NodeName, NodeState] = {}
    commands: dict[CommandId, Command] = {}
    open_commands: dict[CommandId, CommandIssued] = {}
    floors: dict[str, IncarnationNumber] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Part).decode


class Folded(msgspec.Struct):
    """What folding the log gives: the state, and the open commands in the order of the log."""

    state: State
    open_commands: dict[CommandId, CommandIssued]

    def copy(self) -> Folded:
        """Copy it as it is now; its frozen values are shared."""
        state = self.state
        kept = State(dict(state.keys), dict(state.nodes), dict(state.commands), dict(state.floors), dict(state.usage))
        return Folded(kept, dict(self.open_commands))


@cache
def fingerprint() -> str:
    """Name the code that folds, as 64 hex digits."""
    digest = blake3()
    for module in _FOLDED_BY:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    for path in sorted(Path(state.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def encode(folded: Folded) -> Iterator[bytes]:
    """Encode, part by part as they are asked for; nothing of ``folded`` may be changed meanwhile."""
    kept = folded.state
    yield _encode(
        _Part(nodes=kept.nodes, commands=kept.commands, open_commands=folded.open_commands, floors=kept.floors)
    )
    keys = iter(kept.keys.items())
    while part := list(islice(keys, _PART_KEYS)):
        yield _encode(_Part(keys=part))


def _with_shared_facts(key: KeyState) -> KeyState:
    """Let equal facts be one value again, as they were before they became bytes."""
    if not any(snapshot.taken_on.cpu_features or snapshot.taken_from.privileges for snapshot in key.snapshots.values()):
        return key
    snapshots = {
        name: replace(each, taken_on=shared(each.taken_on), taken_from=with_shared_privileges(each.taken_from))
        for name, each in key.snapshots.items()
    }
    starts = {
        number: replace(each, container=with_shared_privileges(each.container))
        for number, each in key.incarnations.items()
    }
    return replace(key, snapshots=snapshots, incarnations=starts)


def decode(parts: Iterable[bytes]) -> Folded:
    """Decode what :func:`encode` gave.

    Raises:
        msgspec.DecodeError: if it was changed since.
    """
    folded = Folded(State(), {})
    for data in parts:
        part = _decode(data)
        folded.state.keys.update((name, _with_shared_facts(key)) for name, key in part.keys)
        folded.state.nodes.update(part.nodes)
        folded.state.commands.update(part.commands)
        folded.open_commands.update(part.open_commands)
        folded.state.floors.update(part.floors)
    for name, key in folded.state.keys.items():
        count_usage(folded.state.usage, name, None, key)
    return folded
