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

import controlplane.domain
import controlplane.log.upcast
import woodfrog.protocol.commands
import woodfrog.protocol.events
import woodfrog.protocol.facts
import woodfrog.protocol.failures
import woodfrog.protocol.ids
import woodfrog.protocol.pods
import woodfrog.protocol.privileges
from controlplane.domain.draft import shared, with_shared_privileges
from controlplane.domain.state import KeyState, NodeState, State, count_usage
from woodfrog.protocol.commands import Command
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName

_PART_KEYS: Final = 500
_FOLDED_BY: Final[tuple[ModuleType, ...]] = (
    controlplane.domain,
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
    floors: dict[str, IncarnationNumber] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Part).decode


def copy(state: State) -> State:
    """Copy the state as it is now; its frozen values are shared."""
    return State(dict(state.keys), dict(state.nodes), dict(state.commands), dict(state.floors), dict(state.usage))


@cache
def fingerprint() -> str:
    """Name the code that folds, as 64 hex digits."""
    digest = blake3()
    for module in _FOLDED_BY:
        assert module.__file__ is not None
        file = Path(module.__file__)
        for path in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def encode(state: State) -> Iterator[bytes]:
    """Encode, part by part as they are asked for; nothing of ``state`` may be changed meanwhile."""
    yield _encode(_Part(nodes=state.nodes, commands=state.commands, floors=state.floors))
    keys = iter(state.keys.items())
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


def decode(parts: Iterable[bytes]) -> State:
    """Decode what :func:`encode` gave.

    Raises:
        msgspec.DecodeError: if it was changed since.
    """
    state = State()
    for data in parts:
        part = _decode(data)
        state.keys.update((name, _with_shared_facts(key)) for name, key in part.keys)
        state.nodes.update(part.nodes)
        state.commands.update(part.commands)
        state.floors.update(part.floors)
    for name, key in state.keys.items():
        count_usage(state.usage, name, None, key)
    return state
