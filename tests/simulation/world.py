"""One world from one seed: the real decisions amid everything that is not to be trusted.

Real are :mod:`controlplane.domain` and :mod:`protocol`. Fake are the disk, the broker, the clocks, the nodes and whoever starts and
stops containers; what each does next, and what goes wrong, is drawn from the seed. A world is played step by step, and the
laws (:mod:`.laws`) are asked after every one. At the end everything heals, and what was begun must come to its end.

The idea is FoundationDB's: a run that broke a law is played again, step for step, from its seed and the commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from random import Random

import msgspec

from controlplane.domain import CheckpointAsked, Decision, NodeHeard, ResolveAsked, SnapshotAsked
from woodfrog.protocol.events import CommandIssued
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.protocol.requests import CheckpointRequest

from .config import own_interval_seconds, policy_of, wish
from .convergence import heal
from .laws import Laws, Truth
from .lying import Liar, has_pod, placement
from .network import Broker, LawBrokenError, Log, LogAwayError, StaleLeadError
from .node import Ask, Container, Node, clock_of
from .plane import CATCH_UP_SECONDS, Pending, Plane

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEYS = [CheckpointKey("lab", "default", "trainer"), CheckpointKey("lab", "web", "server")]
NEW_CPU = NodeFacts(architecture="x86_64", cpu_features=("avx512f", "sse2"))
OLD_CPU = NodeFacts(architecture="x86_64", cpu_features=("sse2",))
IMAGES = [ContainerFacts(image="job:1"), ContainerFacts(image="job:2")]
BEAT_SECONDS = 2.0
_FRESH_EVERY = 11
REPLY_SECONDS = 15.0


class World:
    """Everything there is, and what may happen to it."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.trace: list[str] | None = [] if trace else None
        self.seconds = 0.0
        self.step = 0
        self.given = 0
        self.truth = Truth()
        self.laws = Laws(self.truth)
        self.log = Log()
        self.broker = Broker()
        self.skew_seconds = 0.0
        self.keys = KEYS[: self.chance.choice((1, 1, 2))]
        self.policy = policy_of(self.chance, self.keys)
        self.replace_plane()
        self.old_plane: Plane | None = None
        self.nodes = [
            Node(name, facts, self.truth, self.chance, self.say)
            for name, facts in (("a", NEW_CPU), ("b", NEW_CPU), ("c", OLD_CPU))
        ]
        self.give_stores()
        for node in self.nodes:
            node.now = NOON
            node.start_worker()
        self.liar = Liar(self.nodes[1], self.truth, self.broker, self.chance, self.laws.starts)
        usual: list[tuple[Callable[[], bool], float]] = [
            (self.flow, 30),
            (self.decide, 40),
            (self.feed, 30),
            (self.send_reports, 40),
            (self.ask, 25),
            (self.take_question, 25),
            (self.hear_answer, 30),
            (self.go_on_restoring, 25),
            (self.start_container, 25),
            (self.go_on_dumping, 30),
            (self.wait, 3),
            (self.watch, 12),
            (self.relay, 5),
            (self.obey, 15),
            (self.create, 3),
            (self.hand_over, 5),
            (self.stop_container, 2),
            (self.end_container, 0.5),
            (self.ask_for_checkpoint, 4),
            (self.wish, 7),
            (self.start_worker, 10),
            (self.reconnect, 3),
            (self.mount, 4),
            (self.boot_up, 5),
            (self.sweep, 1),
        ]
        harm: list[tuple[Callable[[], bool], float]] = [
            (self.late_copy, 3),
            (self.kill_worker, 1.5),
            (self.cut_off, 2),
            (self.reboot, 0.4),
            (self.lose_node, 0.6),
            (self.kill_plane, 1),
            (self.fail_over, 0.6),
            (self.old_plane_acts, 3),
            (self.skew_clocks, 0.5),
            (self.change_policy, 1),
            (self.corrupt_store, 0.8),
            (self.unmount, 0.8),
            (self.wipe_broker, 0.3),
            (self.lie, 2),
        ]
        # Each world has a temper of its own: some kinds of harm are frequent in it and others unknown, for what is rare
        # everywhere would never come together often enough to matter.
        tempered = [(action, weight * self.chance.choice((0.0, 0.3, 1.0, 1.0, 3.0))) for action, weight in harm]
        self._what = [action for action, _ in usual + tempered]
        self._weights = list(accumulate(weight for _, weight in usual + tempered))

    def give_stores(self) -> None:
        """One store for all, or one each; some nodes' workers are too old to tell which theirs is."""
        kind = self.chance.choice(("shared", "shared", "private", "old workers"))
        for node in self.nodes:
            node.store = f"store-{node.name}" if kind == "private" else "store"
            if kind != "old workers" or self.chance.random() < 0.5:
                node.facts = msgspec.structs.replace(node.facts, store=node.store)

    # Time and words

    @property
    def moment(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    @property
    def plane_now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds + self.skew_seconds)

    def say(self, text: str) -> None:
        """Put a line into the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.step:4} {self.seconds:7.1f} s  {text}")

    def source(self, kind: str) -> str:
        self.given += 1
        return f"{kind}-{self.given}"

    def play(self, steps: int) -> None:
        """Live for a number of steps, then heal.

        Raises:
            LawBrokenError: saying which law, and how.
        """
        for _ in range(steps):
            self.live()
        heal(self)

    def live(self) -> None:
        """Let one thing happen, and check the laws."""
        self.step += 1
        chance = self.chance
        self.pass_time(chance.choice((0.0, 0.0, 0.05, 0.1, 0.3, 1.0)))
        for _ in range(8):  # most of what may happen cannot happen now; something that can is found soon
            if chance.choices(self._what, cum_weights=self._weights)[0]():
                break
        self.check()

    def pass_time(self, seconds: float) -> None:
        """Let time pass on all clocks; whoever lives and is reachable gives signs of life meanwhile."""
        self.seconds += seconds
        for node in self.nodes:
            node.now = clock_of(node, self.moment)
            if node.works and node.linked and self.seconds - node.beat_at > BEAT_SECONDS:
                node.beat_at = self.seconds
                self.hear(node)

    def check(self) -> None:
        self.laws.stepped(self.plane.state)
        for command, count in self.truth.executions.items():
            if count > 1:
                raise LawBrokenError(f"command {command} was carried out {count} times")

    # The control plane

    def decide(self) -> bool:
        """Commit a batch; now and then the disk or the process fails in the middle of it."""
        plane = self.plane
        if not plane.queue:
            return False
        dice = self.chance.random()
        mishap = "refused" if dice < 0.02 else "unsaid" if dice < 0.04 else ""
        before = len(self.log.records)
        try:
            outcomes = plane.commit(self.chance.randint(1, 6), self.plane_now, mishap)
        except LogAwayError:
            self.say(f"control plane: the log was away ({mishap})")
            return True
        self.tell(before, outcomes)
        if dice > 0.98:
            self.say("control plane: killed between the log and the answers")
            self.replace_plane()
        else:
            plane.settle(outcomes)
        return True

    def tell(self, before: int, outcomes: list[tuple[Pending, Decision]]) -> None:
        """Put into the trace what was decided, and what the log holds of it behind ``before``."""
        if self.trace is None:
            return
        for event in self.laws.log[before:]:
            self.say(f"log {before + 1}: {event}")
            before += 1
        for pending, decision in outcomes:
            if decision.answer is not None or decision.rejected is not None:
                self.say(f"decided {pending.given.source}: {decision.answer or decision.rejected}")

    def feed(self) -> bool:
        return self.plane.feed(self.chance.randint(1, 4))

    def watch(self) -> bool:
        self.plane.watch(self.seconds, self.source("watch"))
        return True

    def replace_plane(self) -> None:
        """A new process: what it knows is what the log says, and its clock may be another machine's."""
        self.laws.keeping.policy = self.policy
        self.plane = Plane(self.log, self.broker, self.policy, self.laws, self.seconds)

    def kill_plane(self) -> bool:
        self.say("control plane: killed and started again")
        self.replace_plane()
        return True

    def fail_over(self) -> bool:
        self.say("control plane: another takes the lead; the old one does not know yet")
        self.old_plane = self.plane
        self.skew_seconds = self.chance.uniform(-1.0, 1.0) * self.chance.choice((3.0, 3.0, 40.0))
        self.replace_plane()
        return True

    def old_plane_acts(self) -> bool:
        """One that lost the lead continues as if it had not, until the log tells it."""
        old, self.old_plane = self.old_plane, None
        if old is None:
            return False
        for node in self.nodes:
            if node.asks:
                old.queue.insert(0, self.pending_ask(node, node.asks.popleft()))
        old.watch(self.seconds + 60.0, self.source("old"))
        before = len(self.log.records)
        try:
            old.commit(6, self.plane_now)
        except StaleLeadError:
            self.say("control plane: the old one was refused, and ends")
        if len(self.log.records) != before or self.log.epoch == old.epoch:
            raise LawBrokenError("one that had lost the lead wrote to the log")
        return True

    @property
    def relaying(self) -> bool:
        return self.broker.relayed < len(self.laws.log)

    def relay(self) -> bool:
        """Publish the next events; killed behind a command, it sends that command again."""
        broker = self.broker
        if not self.relaying:
            return False
        for event in self.laws.log[broker.relayed : broker.relayed + 8]:
            if isinstance(event, CommandIssued) and event.command.command_id in self.plane.state.commands:
                broker.commands.setdefault(event.command.node, deque()).append(event.command)
                self.say(f"relay: {event.command.command_id} to {event.command.node}")
                if self.chance.random() < 0.1:
                    return True
            broker.relayed += 1
        return True

    # The way between

    def flow(self) -> bool:
        """Nothing is slow for a moment: what is on its way arrives, is decided, and is answered."""
        for node in self.nodes:
            if not (node.works and node.linked):
                continue
            outbox = node.journal.outbox
            while outbox:
                node.journal.sequence = self.broker.take(outbox.popleft())
            for name, container in list(node.containers.items()):
                if container.phase == "creating":
                    node.ask(name, self.seconds)
        self.feed()
        self.take_question()
        decided = self.decide()
        for node in self.nodes:
            if node.linked:
                while node.answers:
                    node.answered(*node.answers.pop(0))
        self.go_on_restoring()
        self.start_container()
        return self.go_on_dumping() or decided

    def late_copy(self) -> bool:
        """A copy of a report that was sent long ago arrives."""
        late = self.broker.late
        if not late:
            return False
        report = late.pop(self.chance.randrange(len(late)))
        if self.chance.random() < 0.5:
            self.broker.seen.discard(report.report_id.int)  # the duplicate window is over
        self.broker.take(report)
        return True

    def send_reports(self) -> bool:
        """A worker sends its outbox, in order; a confirmation may be lost, a copy may linger."""
        node = self.chance.choice(self.nodes)
        outbox = node.journal.outbox
        if not (node.works and node.linked and outbox):
            return False
        for _ in range(self.chance.randint(1, 4)):
            if not outbox:
                break
            dice = self.chance.random()
            if dice < 0.04:
                break  # lost on the way there
            sequence = self.broker.take(outbox[0])
            if dice < 0.08:
                break  # lost on the way back
            if dice < 0.14:
                self.broker.late.append(outbox[0])
            if dice < 0.5:
                self.broker.seen.discard(outbox[0].report_id.int)
            self.say(f"{node.name}: reported {outbox[0].event}")
            outbox.popleft()
            node.journal.sequence = sequence
        return True

    def wait(self) -> bool:
        """Nothing happens for a while."""
        self.pass_time(self.chance.choice((2.0, 5.0, 16.0)))
        return True

    def hear(self, node: Node) -> None:
        plane = self.plane
        plane.heard[node.name, node.worker_id] = self.seconds
        known = plane.state.nodes.get(node.name)
        if known is None or known.lost:
            plane.queue.append(Pending(NodeHeard(node.heartbeat(), self.source("heard")), lambda _: None))

    def ask(self) -> bool:
        node = self.chance.choice(self.nodes)
        starting = [
            name
            for name, container in node.containers.items()
            if container.phase == "creating"
            and (name not in node.asked or self.seconds - node.asked_at > REPLY_SECONDS)
        ]
        if not starting:
            return node.ask_on(self.seconds)
        node.ask(self.chance.choice(starting), self.seconds)
        return True

    def pending_ask(self, node: Node, ask: Ask) -> Pending:
        where = None if ask.request.given_up else placement(self.truth, ask.request)
        asked = ResolveAsked(ask.request, self.source("resolve"), where)
        return Pending(asked, partial(self.answer, node, ask))

    def take_question(self) -> bool:
        """Hand a question over once the asker's own reports are taken in, or it has waited long enough for them."""
        for node in self.nodes:
            if not node.asks:
                continue
            ask = node.asks[0]
            wiped = self.broker.last < ask.request.reports_sequence
            caught_up = self.broker.floor >= ask.request.reports_sequence
            if not (wiped or caught_up or self.seconds - ask.at > CATCH_UP_SECONDS):
                continue
            node.asks.popleft()
            if self.chance.random() > 0.03:
                self.plane.queue.append(self.pending_ask(node, ask))
            return True
        return False

    def answer(self, node: Node, ask: Ask, decision: Decision) -> None:
        if node.linked and self.chance.random() > 0.03:
            told = self.laws.choices.get((ask.request.key, getattr(decision.answer, "incarnation", 0)), (None, -1))
            node.answers.append((ask, decision.answer, told[1]))  # type: ignore[arg-type]

    def hear_answer(self) -> bool:
        node = self.chance.choice(self.nodes)
        if not (node.answers and node.linked):
            return False
        node.answered(*node.answers.pop(self.chance.randrange(len(node.answers))))
        return True

    def obey(self) -> bool:
        """Deliver a command; it stays in its stream until it is acknowledged."""
        node = self.chance.choice(self.nodes)
        waiting = self.broker.commands.get(node.name)
        if not (waiting and node.works and node.linked):
            return False
        command = self.chance.choice(waiting)
        self.say(f"{node.name}: is given {command.command_id}")
        if node.obey(command, self.plane_now) and self.chance.random() > 0.2:
            waiting.remove(command)
        return True

    # People and engines

    def new_container(self, node: Node, key: CheckpointKey) -> None:
        used = [name for name, container in node.containers.items() if container.phase == "dead"]
        again = used and self.chance.random() < 0.15
        name = self.chance.choice(used) if again else f"c{self.source('')}"
        facts = node.containers[name].facts if again else IMAGES[self.chance.random() < 0.05]
        if not again:
            facts = msgspec.structs.replace(facts, interval_seconds=own_interval_seconds(self.chance))
        uid = f"pod-{self.source('')}"
        if int(uid.rpartition("-")[2]) % _FRESH_EVERY == 0:
            facts = msgspec.structs.replace(facts, fresh=uid)
        facts = msgspec.structs.replace(facts, pod=uid, pod_uid=uid)
        self.say(f"{node.name}: {name} is to be created as {key.id} from {facts.image}")
        container = Container(name, key, facts)
        has_pod(self.truth, node, container)
        node.create(container)

    def live_ones(self, *phases: str) -> list[tuple[Node, Container]]:
        return [(n, c) for n in self.nodes if n.up for c in n.containers.values() if c.phase in phases]

    def create(self) -> bool:
        """Somebody starts an id, whether one runs under it or not."""
        key = self.chance.choice(self.keys)
        busy = any(container.key == key for _, container in self.live_ones("creating", "created", "running"))
        node = self.chance.choice(self.nodes)
        if not node.up or (busy and self.chance.random() < 0.7):
            return False
        self.new_container(node, key)
        return True

    def hand_over(self) -> bool:
        """A running container is stopped, and its replacement is created elsewhere at once, or here."""
        running = self.live_ones("running")
        if not running:
            return False
        node, container = self.chance.choice(running)
        if self.chance.random() < 0.9:
            self.stop(node, container)
        target = self.chance.choice(self.nodes)
        if target.up:
            self.new_container(target, container.key)
        return True

    def stop(self, node: Node, container: Container) -> None:
        self.say(f"{node.name}: {container.container_id} is told to stop")
        if not node.begin(container, final=True):
            node.end(container)  # nobody can dump it: the signal is passed on

    def stop_container(self) -> bool:
        running = self.live_ones("running")
        if not running:
            return False
        self.stop(*self.chance.choice(running))
        return True

    def start_container(self) -> bool:
        created = self.live_ones("created")
        if not created:
            return False
        node, container = self.chance.choice(created)
        node.start(container)
        self.say(f"{node.name}: {container.container_id} runs from {container.restored_from}")
        self.check_start(container)
        return True

    def go_on_restoring(self) -> bool:
        """A restore comes to its end; what it reads must be there, unless a newer start has taken its place long ago."""
        begun = [(node, name) for node in self.nodes if node.works for name in node.restoring]
        if not begun:
            return False
        self.restore(*self.chance.choice(begun))
        return True

    def restore(self, node: Node, name: str) -> None:
        answer, _ = node.restoring[name]
        key = node.containers[name].key
        newest = max(self.laws.keeping.of(key).opened_at)
        if self.truth.snapshots[answer.snapshot_id].content == "deleted" and answer.incarnation == newest:
            raise LawBrokenError(f"{answer.snapshot_id} was deleted while {name} on {node.name} was restored from it")
        node.restore(name)

    def check_start(self, container: Container) -> None:
        choice = self.laws.choices.get((container.key, container.incarnation))
        if choice is None or choice[0] != container.restored_from:
            raise LawBrokenError(f"{container} runs from something else than the log says: {choice}")

    def end_container(self) -> bool:
        """A container ends by itself, or is deleted before it started."""
        existing = self.live_ones("creating", "created", "running")
        if not existing:
            return False
        node, container = self.chance.choice(existing)
        self.say(f"{node.name}: {container.container_id} ends, being {container.phase}")
        node.end(container)
        return True

    def go_on_dumping(self) -> bool:
        node = self.chance.choice(self.nodes)
        dumps = list(node.journal.dumps.values())
        if not (node.works and dumps):
            return False
        dump = self.chance.choice(dumps)
        node.go_on(dump)
        self.say(f"{node.name}: dump {dump.snapshot_id} went on, being {dump.step}")
        return True

    def ask_for_checkpoint(self) -> bool:
        key = self.chance.choice(self.keys)
        name = self.source("checkpoint")
        request = CheckpointRequest(key, self.chance.choice((2.0, 10.0, 30.0)))
        self.plane.queue.append(Pending(CheckpointAsked(request, CommandId(name), name), lambda _: None))
        return True

    def wish(self) -> bool:
        """Somebody wants a snapshot pinned, unpinned, set aside or deleted."""
        known = [(name, snapshot.key) for name, snapshot in self.truth.snapshots.items()]
        if not known:
            return False
        request = wish(self.chance, known)
        if request.wish == "invalidate":
            self.laws.set_aside.add(request.snapshot_id)
        elif request.wish == "delete":
            self.laws.keeping.wanted_gone.add(request.snapshot_id)
            if request.force:
                self.laws.keeping.forced.add(request.snapshot_id)
        self.say(f"somebody wants {request.snapshot_id}: {request.wish}{' by force' if request.force else ''}")
        self.plane.queue.append(Pending(SnapshotAsked(request, self.source("wish")), lambda _: None))
        return True

    def change_policy(self) -> bool:
        """Somebody configures the control plane anew, for which it is started again."""
        self.policy = policy_of(self.chance, self.keys)
        self.say(f"control plane: started again with {self.policy}")
        self.replace_plane()
        return True

    # Harm

    def kill_worker(self) -> bool:
        node = self.chance.choice(self.nodes)
        if not node.works:
            return False
        self.say(f"{node.name}: its worker is killed")
        node.kill_worker()
        return True

    def start_worker(self) -> bool:
        for node in self.nodes:
            if node.up and not node.alive:
                node.start_worker()
                self.say(f"{node.name}: its worker is back as {node.worker_id}")
                return True
        return False

    def sweep(self) -> bool:
        for node in self.nodes:
            if node.works:
                node.sweep()
        return True

    def cut_off(self) -> bool:
        node = self.chance.choice(self.nodes)
        self.say(f"{node.name}: is cut off")
        node.linked = False
        return True

    def reconnect(self) -> bool:
        for node in self.nodes:
            if not node.linked:
                self.say(f"{node.name}: is reachable again")
                node.linked = True
                return True
        return False

    def reboot(self) -> bool:
        node = self.chance.choice(self.nodes)
        if not node.up:
            return False
        self.say(f"{node.name}: the machine goes down")
        node.reboot()
        node.up = False
        return True

    def boot_up(self) -> bool:
        for node in self.nodes:
            if not node.up and not node.gone:
                self.say(f"{node.name}: the machine is up")
                node.up = True
                return True
        return False

    def lose_node(self) -> bool:
        """A machine goes and never comes back, if it is not the last."""
        node = self.chance.choice(self.nodes)
        if sum(not other.gone for other in self.nodes) < 3 or self.chance.random() < 0.5:
            return False
        self.say(f"{node.name}: the machine is gone for ever")
        node.reboot()
        node.up, node.gone = False, True
        return True

    def lie(self) -> bool:
        """A node that somebody has broken into asks for what is not its own."""
        if not (self.liar.node.works and self.liar.node.linked):
            return False
        request = self.liar.lie(self.chance.choice(self.keys))
        self.say(f"{self.liar.node.name}: lies about {request.key.id} in pod {request.container.pod}")
        asked = ResolveAsked(request, self.source("lie"), placement(self.truth, request))
        self.plane.queue.append(Pending(asked, partial(self.liar.make_the_most_of, request)))
        return True

    def skew_clocks(self) -> bool:
        for node in self.nodes:
            node.skew_seconds = self.chance.uniform(-1.0, 1.0) * self.chance.choice((300.0, 300.0, 30 * 86400.0))
        return True

    def unmount(self) -> bool:
        """A node's store is an empty directory for a while."""
        node = self.chance.choice(self.nodes)
        self.say(f"{node.name}: its store is not mounted")
        node.mounted = False
        return True

    def mount(self) -> bool:
        for node in self.nodes:
            if not node.mounted:
                self.say(f"{node.name}: its store is mounted")
                node.mounted = True
                return True
        return False

    def corrupt_store(self) -> bool:
        good = [name for name, snapshot in self.truth.snapshots.items() if snapshot.content == "good"]
        if not good:
            return False
        name = self.chance.choice(good[-3:])
        self.truth.snapshots[name].content = self.chance.choice(("corrupt", "missing"))
        self.say(f"store: {name} is {self.truth.snapshots[name].content} from now on")
        return True

    def wipe_broker(self) -> bool:
        """The broker comes back empty, which workers cannot always make good: what it had confirmed they do not say again."""
        if self.chance.random() < 0.7:
            return False
        lost = self.broker.wipe()
        self.truth.tainted |= bool(lost)
        self.say(f"broker: wiped, with {len(lost)} reports that nobody will say again")
        return True
