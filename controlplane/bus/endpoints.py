"""Questions that somebody waits for: resolve, checkpoint, snapshot, import and query, over NATS request and reply.

Queries only read the log, so every control plane answers them, leading or standing by; decisions are the leader's alone.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, Protocol

import structlog
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus import message_validation
from controlplane.bus.node_statuses import NodeStatuses
from controlplane.bus.refusal_limit import RefusalBudget
from controlplane.bus.request_slots import RequestSlots
from controlplane.bus.responder import DECIDE_SECONDS, QUESTIONS_PER_NODE, Reply, Responder, busy, malformed
from controlplane.bus.streams import BROKER_ERRORS, REQUEST_SECONDS
from controlplane.core.input_queue import InputQueue, UndecidableError
from controlplane.core.key_waiters import KeyWaiters
from controlplane.core.watermark import Watermark
from controlplane.domain.inputs import CheckpointAsked, ForgetAsked, ImportAsked, Input, ResolveAsked, SnapshotAsked
from controlplane.domain.placement import PlacedPod, Placement, misplaced
from controlplane.log import pages
from controlplane.log.eventlog import EventLog
from controlplane.log.pages import Scope
from controlplane.log.projections.views import CONTRACT
from woodfrog.protocol import subjects
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId, NodeName, check_id
from woodfrog.protocol.requests import (
    CheckpointRequest,
    EventFilter,
    ForgetRequest,
    QueryRequest,
    ResolveRequest,
    RestoreFrom,
    Rows,
    SnapshotRequest,
    WaitFor,
)
from woodfrog.protocol.wire import time_problem
from woodfrog.service.data_keys import DataKeyError, Unwrapper, from_text, purpose, to_text

_log = structlog.get_logger(component="services")

_CATCH_UP_SECONDS: Final = 7.0
"""How long a resolve waits for the asker's own reports before it is answered without them."""
_HOLD_SECONDS: Final = 3.0
"""How long the question of a start that has to wait is held; a node worker that is told to wait asks again."""
_MOST_HELD: Final = 256
"""Of the requests in flight; who comes beyond is told at once to ask again. A node has half of its places for it at most."""
_MOST_CATCHING_UP: Final = 512
"""Of the requests in flight, those that wait for their node's reports; of one node a quarter of its places at most."""
_MOST_ROWS: Final = 10_000
_QUEUE_GROUP: Final = "controlplane"


class Queries(Responder):
    """Answers what the log knows, and of nodes what their workers said last."""

    def __init__(self, client: Client, log: EventLog, statuses: NodeStatuses) -> None:
        super().__init__(client, {subjects.QUERY: self._query}, queue_group=_QUEUE_GROUP)
        self._log = log
        self._statuses = statuses

    async def _query(self, message: Msg) -> Reply:
        request = message_validation.request(message.data, QueryRequest)
        if request.key is not None:
            _check_key(request.key)
        if not 1 <= request.limit <= _MOST_ROWS:
            return malformed(f"limit {request.limit} is not between 1 and {_MOST_ROWS} - at `$.limit`")
        if request.only is not None:
            return await self._some(request, request.only)
        async with asyncio.timeout(DECIDE_SECONDS):
            rows = await self._log.query(
                request.view,
                key=request.key,
                command_id=request.command_id,
                limit=request.limit,
                before=request.before,
            )
        if request.view == "nodes" and request.statuses:
            for row in rows:
                row["now"] = self._statuses.of(row["node"])
        return Rows(rows=rows)

    async def _some(self, request: QueryRequest, only: EventFilter) -> Reply:
        """Read a page of what a filter names."""
        if (problem := _filter_problem(request, only)) is not None:
            return malformed(problem)
        scope = Scope(only.cluster, frozenset({only.namespace}) if only.namespace else None)
        of_view: dict[str, Any] = {"scope": scope, "before": request.before, "limit": request.limit}
        if request.view == "events":
            streams = [f"checkpoint/{request.key}"] if request.key is not None else []
            streams += [f"node/{only.node}"] if only.node else []
            act = partial(pages.events, streams=streams, types=only.types, since=only.since, **of_view)
        else:
            act = partial(pages.rows, view=request.view, equal={}, **of_view)
        async with asyncio.timeout(DECIDE_SECONDS):
            page = await self._log.page(act)
        return Rows(rows=page.rows[::-1], next=page.next)


def _filter_problem(request: QueryRequest, only: EventFilter) -> str | None:
    """Say which part of a query with a filter contradicts another, or what its view does not have."""
    if request.command_id is not None or (request.view != "events" and not _names_a_namespace(request, only)):
        return f"rows of the view {request.view} are not filtered so - at `$.only`"
    if only.since is not None and (problem := time_problem(only.since)) is not None:
        return f"{problem} - at `$.only.since`"
    if only.node and (only.namespace or request.key is not None):
        return "the events of a node belong to no id and no namespace - at `$.only.node`"
    return None


def _names_a_namespace(request: QueryRequest, only: EventFilter) -> bool:
    """Whether the filter names a namespace and nothing else, and the view has one: all that a view can be filtered by."""
    alone = only == EventFilter(namespace=only.namespace, cluster=only.cluster) and request.key is None
    return alone and bool(only.namespace) and "namespace" in CONTRACT[request.view].table.c


class Pods(Protocol):
    """Knows where pods are."""

    async def look(self, request: ResolveRequest) -> PlacedPod | None:
        """Find the pod that a start is asked for in."""
        ...


class Decisions(Responder):
    """Answers what has to be decided.

    There is no queue group: a leader that hangs would go on to get its share of the questions from the broker. It hears
    them as well, but cannot answer any, since its lease has lapsed and the log refuses its decisions.
    """

    def __init__(
        self,
        client: Client,
        intake: InputQueue,
        taken_in: Watermark,
        waiters: KeyWaiters,
        check_lease: Callable[[], None],
        *,
        pods: Pods | None = None,
        outside: Collection[NodeName] = (),
        questions_per_node: int = QUESTIONS_PER_NODE,
        data_keys: Unwrapper | None = None,
    ) -> None:
        """``taken_in`` is the REPORTS sequence up to which reports are in the log, ``stirrings`` is told what comes there.

        Starts are answered for ``pods`` that are where they are asked for, but on nodes ``outside`` of Kubernetes.
        """
        answerers = {
            subjects.RESOLVE_ALL: self._resolve,
            subjects.CHECKPOINT: self._checkpoint,
            subjects.SNAPSHOT: self._snapshot,
            subjects.IMPORT: self._import,
            subjects.FORGET: self._forget,
        }
        super().__init__(client, answerers, may_answer=check_lease, questions_per_node=questions_per_node)
        self._jetstream = client.jetstream(timeout=REQUEST_SECONDS)
        self._intake = intake
        self._taken_in = taken_in
        self._waiters = waiters
        self._pods = pods
        self._outside = frozenset(outside)
        self._data_keys = data_keys
        self._refusals = RefusalBudget()
        self._held = RequestSlots(_MOST_HELD, max(questions_per_node // 2, 1))
        self._catching_up = RequestSlots(_MOST_CATCHING_UP, max(questions_per_node // 4, 1))
        self.on_resolved: Callable[[float], None] = lambda _seconds: None
        """Called with the seconds that it took to decide about a worker's question; held ones count each time."""

    async def _resolve(self, message: Msg) -> Reply:
        request = message_validation.resolve_request(message.data)
        if message.subject != subjects.resolve(request.node):
            return malformed(f"node {request.node!r} may not ask over {message.subject} - at `$.node`")
        hold_until = asyncio.get_running_loop().time() + _HOLD_SECONDS
        began = time.monotonic()
        await self._catch_up(request)
        while True:
            with self._waiters.of(request.key) as stirred:
                asked = ResolveAsked(request, f"resolve/{uuid.uuid4()}", await self._placement(request))
                reply = await self._decided(asked, actor=f"worker/{request.node}")
                self.on_resolved(time.monotonic() - began)
                if not isinstance(reply, WaitFor) or not await self._worth_another_look(
                    stirred, hold_until, request.node
                ):
                    return self._with_data_key(request, reply)
            began = time.monotonic()

    def _with_data_key(self, request: ResolveRequest, reply: Reply) -> Reply:
        """Add the key of the snapshot that was chosen, if that is the one whose wrapped key was shown. It is in no event and no log."""
        if not isinstance(reply, RestoreFrom) or not request.wrapped_key or self._data_keys is None:
            return reply
        try:
            key = self._data_keys.unwrap(from_text(request.wrapped_key), purpose(request.key, reply.snapshot_id))
        except DataKeyError as problem:
            _log.warning(
                "a data key is not given out", node=request.node, snapshot_id=reply.snapshot_id, error=str(problem)
            )
            return reply
        return replace(reply, data_key=to_text(key))

    async def _placement(self, request: ResolveRequest) -> Placement | None:
        """Find out where Kubernetes has the pod.

        Raises:
            FailureError: ``kubernetes-unreachable``.
        """
        if self._pods is None or request.node in self._outside or request.given_up:
            return None
        pod = await self._pods.look(request)
        answered = pod is not None and not pod.static_uid and misplaced(request, pod) is None
        return Placement(pod, answered or self._refusals.take(request.node, request.key))

    async def _worth_another_look(self, stirred: asyncio.Event, hold_until: float, node: NodeName) -> bool:
        """Wait until something happened, which may end the wait that a start was told of; not for long."""
        if not self._held.enter(node):
            return False
        try:
            async with asyncio.timeout_at(hold_until):
                return await stirred.wait()
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            return False  # we are ending: what is known so far is a better answer than none
        finally:
            self._held.leave(node)

    async def _catch_up(self, request: ResolveRequest) -> None:
        """Wait until the asker's own reports are taken in, so that it does not overtake its own words.

        Raises:
            FailureError: ``node-busy``: too many of its questions wait for that.
        """
        wanted = request.reports_sequence
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                counted = self._taken_in.value
                held = (await self._jetstream.stream_info(subjects.REPORTS_STREAM)).state.last_seq
                if held < wanted:  # the stream was wiped: those reports will never come
                    await _log.awarning("reports asked for are gone", node=request.node, wanted=wanted, held=held)
                    return
                if held >= counted and self._taken_in.value >= wanted:
                    return
                if await self._caught_up(request, counted if held < counted else None):
                    return
        except BROKER_ERRORS as problem:
            await _log.awarning("REPORTS cannot be looked at", node=request.node, error=problem)
        await _log.awarning(
            "resolving without the worker's last reports",
            node=request.node,
            wanted=wanted,
            taken_in=self._taken_in.value,
        )

    async def _caught_up(self, request: ResolveRequest, below: int | None) -> bool:
        """Wait for reports; if the stream was wiped, which ingestion has yet to notice, until it counts ``below`` what it did."""
        if not self._catching_up.enter(request.node):
            raise FailureError(busy(f"node {request.node}").failure)
        try:
            if below is not None:
                await self._taken_in.fallen_below(below, _CATCH_UP_SECONDS)
            return await self._taken_in.reached(request.reports_sequence, _CATCH_UP_SECONDS)
        finally:
            self._catching_up.leave(request.node)

    async def _checkpoint(self, message: Msg) -> Reply:
        request = message_validation.request(message.data, CheckpointRequest)
        _check_key(request.key)
        command_id = CommandId(str(uuid.uuid4()))
        return await self._decided(
            CheckpointAsked(request, command_id, f"checkpoint/{command_id}"),
            actor=message_validation.actor_of(request.by),
        )

    async def _snapshot(self, message: Msg) -> Reply:
        request = message_validation.request(message.data, SnapshotRequest)
        check_id(request.cluster, "cluster")
        check_id(request.namespace, "namespace")
        check_id(request.snapshot_id, "snapshot id")
        return await self._decided(
            SnapshotAsked(request, f"snapshot/{uuid.uuid4()}"), actor=message_validation.actor_of(request.by)
        )

    async def _import(self, message: Msg) -> Reply:
        request = message_validation.import_request(message.data)
        return await self._decided(ImportAsked(request, f"import/{uuid.uuid4()}"), actor="request")

    async def _forget(self, message: Msg) -> Reply:
        request = message_validation.request(message.data, ForgetRequest)
        _check_key(request.key)
        return await self._decided(
            ForgetAsked(request, f"forget/{uuid.uuid4()}"), actor=message_validation.actor_of(request.by)
        )

    async def _decided(self, asked: Input, *, actor: str) -> Reply:
        async with asyncio.timeout(DECIDE_SECONDS):
            settled = await (await self._intake.enqueue(asked, actor=actor))
        if settled.answer is None:
            raise UndecidableError("the decision holds no answer")
        return settled.answer


def _check_key(key: CheckpointKey) -> None:
    CheckpointKey.checked(key.cluster, key.namespace, key.id)
