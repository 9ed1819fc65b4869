"""The end of a world: nothing breaks any more, and what was begun must come to its end, while what recurs must go on.

First everything is left as it is configured, and each container that is to be dumped every so often must be dumped again.
Then nobody wants dumps any more, and the world must come to rest: no start, no dump, no command and no deletion is left open.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from controlplane.domain.state import Usage, count_usage
from woodfrog.protocol.ids import NodeName

from .config import quiet
from .network import LawBrokenError
from .node import Node, clock_of

if TYPE_CHECKING:
    from .world import World

ROUNDS = 150
ROUND_SECONDS = 2.0
IDLE_ROUND_SECONDS = 20.0
"""How long a round is if nothing can happen but that a time comes."""
SOME_DUMPS = 5
"""How many dumps of a container are waited for in one world of three: more of them than most policies keep."""


def heal(world: World) -> None:
    """Let everything come to its end.

    Raises:
        LawBrokenError: if something is still waiting after longer than any bound, or what is known is not what is true.
    """
    world.say("from here on everything heals")
    world.chance = _NoHarm(~world.seed)
    world.old_plane = None
    world.skew_seconds = 0.0
    for node in world.nodes:
        node.chance = world.chance
        node.skew_seconds = 0.0
        node.linked = node.mounted = True
        node.up = not node.gone
    world.laws.keeping.scheduled.clear()
    if not world.truth.tainted:
        wanted = 1 if world.seed % 3 else SOME_DUMPS
        _play_until(world, lambda: _starting(world) + _not_dumped(world, wanted))
    world.say("from here on nobody wants dumps")
    world.policy = quiet(world.policy)
    world.replace_plane()
    for node, container in world.live_ones("creating", "created", "running"):
        if container.facts.interval_seconds:
            node.end(container)
    _play_until(world, lambda: _under_way(world) + _left_over(world))
    _check_end(world)


def _play_until(world: World, waiting: Callable[[], list[str]]) -> None:
    began = world.seconds
    for _ in range(ROUNDS):
        world.step += 1
        happening = set(_under_way(world)) - set(_expiring(world))
        world.seconds += ROUND_SECONDS if happening else IDLE_ROUND_SECONDS
        for node in world.nodes:
            _heal(world, node)
        while world.plane.feed(256) or world.plane.queue:
            before = len(world.log.records)
            outcomes = world.plane.commit(256, world.plane_now)
            world.tell(before, outcomes)
            world.plane.settle(outcomes)
        while world.relaying:
            world.relay()
        world.plane.watch(world.seconds, world.source("watch"))
        world.check()
        if not waiting():
            return
    raise LawBrokenError(f"no rest after {world.seconds - began:g} s: {waiting()}")


def _heal(world: World, node: Node) -> None:  # noqa: C901 -- one line for each thing that may be under way
    if node.gone:
        return
    node.now = clock_of(node, world.moment)
    if not node.alive:
        node.start_worker()
    node.sweep()
    while node.answers:
        node.answered(*node.answers.pop(0))
    for name in list(node.restoring):
        world.restore(node, name)
    for name, container in list(node.containers.items()):
        if container.phase == "creating":
            node.ask(name, world.seconds)
        elif container.phase == "created":
            node.start(container)
            world.check_start(container)
    node.ask_on(world.seconds)
    for dump in list(node.journal.dumps.values()):
        node.go_on(dump)
    for command in list(world.broker.commands.get(node.name, ())):
        if node.obey(command, world.plane_now):
            world.broker.commands[node.name].remove(command)
    while node.journal.outbox:
        node.journal.sequence = world.broker.take(node.journal.outbox.popleft())
    while node.asks:
        world.plane.queue.append(world.pending_ask(node, node.asks.popleft()))
    world.hear(node)


def _starting(world: World) -> list[str]:
    return [f"start of {container}" for _, container in world.live_ones("creating", "created")]


def _not_dumped(world: World, wanted: int) -> list[str]:
    """Name the running containers that are to be dumped every so often and were not so often since everything began to heal."""
    keeping = world.laws.keeping
    return [
        f"a dump of {container}"
        for _, container in world.live_ones("running")
        if container.incarnation == keeping.of(container.key).running
        and keeping.interval_seconds(container.key, container.incarnation) > 0
        and keeping.scheduled[container.key, container.incarnation] < wanted
    ]


def _left_over(world: World) -> list[str]:
    """Name what is to go from a store and is still there, where a node is known to have that store."""
    facts = {node.name: node.facts for node in world.nodes}
    stores = {node.facts.store for node in world.nodes if not node.gone} | {None}
    over = world.laws.keeping.left_over(world.plane_now)
    known = world.truth.snapshots
    return [name for name in over if name not in known or facts[NodeName(known[name].node)].store in stores]


def _expiring(world: World) -> list[str]:
    """Name the commands of nodes that are gone for ever: nothing but their time ends them."""
    gone = {node.name for node in world.nodes if node.gone}
    return [f"command {name}" for name, command in world.plane.state.commands.items() if command.node in gone]


def _under_way(world: World) -> list[str]:
    """Name what has not come to its end."""
    here = [node for node in world.nodes if not node.gone]
    waiting = [f"command {command}" for command in world.plane.state.commands]
    waiting += [f"dump {dump}" for node in here for dump in node.journal.dumps]
    waiting += _starting(world)
    waiting += [f"the number of {name}, which was given up" for node in here for name in node.journal.given_up]
    waiting += [f"{len(node.journal.outbox)} words of {node.name}" for node in here if node.journal.outbox]
    known = world.plane.state.nodes
    waiting += [
        f"the loss of {node.name}"
        for node in world.nodes
        if node.gone and node.name in known and not known[node.name].lost
    ]
    unread = world.broker.last - world.broker.floor
    return waiting + ([f"{unread} reports"] if unread else []) + (["the relay"] if world.relaying else [])


def _check_end(world: World) -> None:
    """Compare what is known in the end with what is true."""
    if world.log.fold() != world.plane.state:
        raise LawBrokenError("the log folded from its start is not the live state")
    usage: dict[str, Usage] = {}
    for key, state in world.plane.state.keys.items():
        count_usage(usage, key, None, state)
    if usage != world.plane.state.usage:
        raise LawBrokenError(f"namespaces hold {usage}, not {world.plane.state.usage}")
    if world.laws.finished != set(world.laws.issued):
        raise LawBrokenError("a command has no end")
    if world.truth.tainted:
        return
    gone = {node.name for node in world.nodes if node.gone}
    _check_starts(world, gone)
    for name, snapshot in world.truth.snapshots.items():
        if snapshot.told and snapshot.node not in gone and name not in world.laws.stored_at:
            raise LawBrokenError(f"{name} was stored and the log does not know")


def _check_starts(world: World, gone: set[NodeName]) -> None:
    """Every start that did not come about has an end, unless its node is gone: nothing is on its way any more."""
    for key, state in world.plane.state.keys.items():
        for start in state.incarnations.values():
            if not start.started and not start.ended and start.node not in gone:
                raise LawBrokenError(f"a start of {key} stays open that nobody makes: {start}")


class _NoHarm(Random):
    """Chance, once nothing goes wrong any more: every dice falls well, and names are as random as before."""

    def random(self) -> float:
        return 0.99

    def getrandbits(self, bits: int, /) -> int:
        return super().getrandbits(bits)
