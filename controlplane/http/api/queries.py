"""The questions that the API answers: what each may be restricted by, and what it is answered with.

One table (:data:`ROUTES`) says it for the server and for the OpenAPI document. Everything is read off the views and the log; nothing
is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from controlplane import describe
from controlplane.bus.node_statuses import NodeStatuses
from controlplane.core import what_if
from controlplane.domain import Policy
from controlplane.http.api import params as p
from controlplane.http.api.database import Reader, answering
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.responses import Causes, Choices, Ids, Life, Me, Nodes, Rows
from controlplane.http.api.shared_count import SharedCount
from controlplane.http.api.viewers import RefusedRequestError, Viewer, seen_of
from controlplane.log import pages, read, summary
from controlplane.log.pages import Scope
from controlplane.log.projections.views import CONTRACT
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, NodeName
from woodfrog.protocol.requests import View

_NAMESPACES_SECONDS: Final = 10.0
_MOST_NAMESPACES: Final = 200
_EXPLAINED_EVENTS: Final = 5_000
_MOST_CHOICES: Final = 100

Values = Mapping[str, Any]
Allowed = Callable[[Viewer, str], Awaitable[list[str]]]
Answer = Callable[["Questions", Viewer, Values], Awaitable[Any]]


class Questions:
    """Answers them, from one database."""

    def __init__(
        self,
        reader: Reader,
        cluster: str,
        policy: Policy,
        live: Live,
        statuses: NodeStatuses,
        allowed: Allowed | None = None,
    ) -> None:
        """``allowed`` names what a viewer may do in a namespace; without it nobody may do anything."""
        self.reader = reader
        self.live = live
        self._statuses = statuses
        self._cluster = cluster
        self._policy = policy
        self._allowed = allowed
        self._namespaces: tuple[float, list[str]] = (0.0, [])
        self._overviews: dict[frozenset[str] | None, SharedCount] = {}

    async def scope(self, viewer: Viewer, namespace: str | None) -> Scope:
        """Find what a viewer may see of what is asked for.

        Raises:
            RefusedRequestError: nothing of it.
        """
        if namespace is not None:
            if not await viewer.sees(namespace):
                raise forbidden(viewer, f"namespace {namespace}")
            return Scope(self._cluster, frozenset({namespace}))
        if await viewer.sees(None):
            return Scope(self._cluster)
        return Scope(self._cluster, await self._seen(viewer))

    async def _seen(self, viewer: Viewer) -> frozenset[str]:
        known = await self._known_namespaces()
        if len(known) > _MOST_NAMESPACES:
            raise p.invalid("namespace", f"it is needed: there are more than {_MOST_NAMESPACES} namespaces")
        return await seen_of(viewer, known)

    async def _known_namespaces(self) -> list[str]:
        at, known = self._namespaces
        if time.monotonic() - at > _NAMESPACES_SECONDS or not at:
            known = await self.reader.read(partial(summary.namespaces, cluster=self._cluster))
            self._namespaces = (time.monotonic(), known)
        return known

    async def me(self, viewer: Viewer, _values: Values) -> Me:
        """Say who asks."""
        everything = await viewer.sees(None)
        known = sorted(await self._known_namespaces())[:_MOST_NAMESPACES]
        seen = known if everything else sorted(await seen_of(viewer, known))
        return Me(viewer.name, everything, seen, self._cluster, await self.reader.read(read.head))

    async def overview(self, viewer: Viewer, values: Values) -> summary.Overview:
        """Count everything. Whoever asks while it is counted, or a moment later, gets the same count."""
        scope = await self.scope(viewer, values.get("namespace"))
        self._overviews = {which: each for which, each in self._overviews.items() if not each.is_old()}
        count = self._overviews.get(scope.namespaces)
        if count is None:
            counting = self.reader.begin(partial(summary.overview, scope=scope, now=datetime.now(UTC)))
            count = self._overviews[scope.namespaces] = SharedCount(counting)
        async with answering():
            return await asyncio.shield(count.task)

    async def ids(self, viewer: Viewer, values: Values) -> Ids:
        """List ids."""
        scope = await self.scope(viewer, values.get("namespace"))
        limit = values["limit"]
        after = values.get("after")
        namespace, _, name = after.partition("/") if after else ("", "", "")
        found = await self.reader.read(
            partial(
                summary.ids,
                scope=scope,
                search=values.get("search"),
                state=values.get("state"),
                after=(namespace, name) if after else None,
                limit=limit,
            )
        )
        for row in found:
            row["next_dump_at"] = self.live.next_dump(_key(row))
        return Ids(found, f"{found[-1]['namespace']}/{found[-1]['id']}" if len(found) == limit else None)

    async def life(self, viewer: Viewer, values: Values) -> Life:
        """Show one id."""
        scope = await self.scope(viewer, values["namespace"])
        stream = _stream(self._cluster, values)

        def act(connection: Connection) -> tuple[list[dict[str, Any]], Sequence[Any], bool]:
            now = summary.ids(connection, scope, only=(values["namespace"], values["id"]), limit=1)
            told = pages.of_stream(connection, stream, 2**53, _EXPLAINED_EVENTS)
            return now, [read.plain(row) for row in told], read.is_archived(connection, stream)

        now, told, archived = await self.reader.read(act)
        if not now:
            cause = f"no container of the id {values['id']} was ever started in namespace {values['namespace']}"
            raise RefusedRequestError(
                HTTPStatus.NOT_FOUND, Failure("api-not-found", cause, "See /api/v1/ids for those that were.")
            )
        explanation = await asyncio.to_thread(describe.explain, told)
        now[0]["next_dump_at"] = self.live.next_dump(_key(now[0]))
        allowed = [] if self._allowed is None else await self._allowed(viewer, values["namespace"])
        return Life(now[0], explanation, archived, allowed)

    async def choices(self, viewer: Viewer, values: Values) -> Choices:
        """Decide for each node, and change nothing."""
        scope = await self.scope(viewer, values["namespace"])
        key = CheckpointKey(scope.cluster, values["namespace"], values["id"])
        sees_nodes = await viewer.sees(None)

        def find(connection: Connection) -> tuple[int, datetime, list[Any], dict[str, int]]:
            head = read.head(connection)
            position = values.get("position", head)
            at = pages.recorded_at(connection, position) if position != head else datetime.now(UTC)
            if at is None:
                cause = f"parameter position: there is no event {position}, or it was archived; the newest is {head}"
                failure = Failure("api-not-found", cause, "`/api/v1/log` lists the events.")
                raise RefusedRequestError(HTTPStatus.NOT_FOUND, failure, field="position")
            own = pages.of_stream(connection, f"checkpoint/{key}", position, what_if.MOST_EVENTS)
            return position, at, list(own), pages.registrations(connection, position)

        position, at, own, known = await self.reader.read(find)
        used = what_if.used_nodes(await asyncio.to_thread(what_if.fold, own), key)
        wanted = [values["node"]] if "node" in values else sorted(known)
        shown = [NodeName(node) for node in wanted if sees_nodes or node in used][:_MOST_CHOICES]
        matter: dict[str, int] = {node: known[node] for node in {*shown, *used} if node in known}
        nodes = await self.reader.read(
            partial(pages.of_nodes, registered=matter, until=position, limit=what_if.MOST_EVENTS)
        )

        def decide() -> list[what_if.Choice]:
            state = what_if.fold(sorted(own + nodes, key=lambda row: row["position"]))
            return what_if.choices(state, key, shown, at, self._policy)

        return Choices(position, at, await asyncio.to_thread(decide))

    async def causes(self, viewer: Viewer, values: Values) -> Causes:
        """Group failures."""
        scope = await self.scope(viewer, values.get("namespace"))
        since = datetime.now(UTC) - timedelta(hours=values["hours"])
        return Causes(await self.reader.read(partial(summary.causes, scope=scope, since=since, limit=100)))

    async def nodes(self, viewer: Viewer, values: Values) -> Nodes:
        """List nodes: those of the log, and those whose workers were heard and never registered."""
        if not await viewer.sees(None):
            raise forbidden(viewer, "nodes, which belong to no namespace")
        after, limit = values.get("after", ""), values["limit"]
        found = await self.reader.read(partial(summary.nodes, only=values.get("node"), after=after, limit=limit))
        known = {row["node"] for row in found}
        last = found[-1]["node"] if len(found) == limit else None
        for node in self._statuses.nodes():
            asked = node > after and (last is None or node < last) and values.get("node", node) == node
            if asked and node not in known and self._statuses.of(node) is not None:
                found.append(dict.fromkeys(CONTRACT["nodes"].table.c.keys()) | {"node": node, "status": "unregistered"})
        found = sorted(found, key=lambda row: row["node"])[:limit]
        for row in found:
            row["now"] = self._statuses.of(row["node"])
        return Nodes(found, found[-1]["node"] if len(found) == limit else None)

    async def view(self, viewer: Viewer, values: Values, view: View) -> Rows:
        """Read a page of a view."""
        table = CONTRACT[view].table
        if "namespace" not in table.c and not await viewer.sees(None):
            raise forbidden(viewer, f"{view}, which belong to no namespace")
        _check_id(values)
        scope = await self.scope(viewer, values.get("namespace"))
        equal = {name: value for name, value in values.items() if name in table.c and name != "namespace"}
        page = await self.reader.read(
            partial(pages.rows, view=view, scope=scope, equal=equal, before=values.get("before"), limit=values["limit"])
        )
        return Rows(page.rows, page.next)

    async def log(self, viewer: Viewer, values: Values) -> Rows:
        """Read a page of the log."""
        scope, streams = await self.log_scope(viewer, values)
        page = await self.reader.read(
            partial(
                pages.events,
                scope=scope,
                streams=streams,
                types=[values["type"]] if "type" in values else [],
                before=values.get("before"),
                limit=values["limit"],
            )
        )
        return Rows([shown(row) for row in page.rows], page.next)

    async def log_scope(self, viewer: Viewer, values: Values) -> tuple[Scope, list[str]]:
        """Find which events are asked for, of those that a viewer may see."""
        _check_id(values)
        if "node" in values:
            if "namespace" in values:
                raise p.invalid("node", "the events of a node belong to no namespace: name one of the two")
            if not await viewer.sees(None):
                raise forbidden(viewer, "the events of nodes")
            return Scope(self._cluster), [f"node/{values['node']}"]
        scope = await self.scope(viewer, values.get("namespace"))
        return scope, [_stream(self._cluster, values)] if "id" in values else []


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Add to a row of ``events`` what happened, in a sentence."""
    row["what"] = describe.describe(row)
    return row


def forbidden(viewer: Viewer, what: str, verb: str = "see") -> RefusedRequestError:
    """Refuse what a viewer may not see, or not change."""
    cause = f"{viewer.name} may not {verb} {what}"
    advice = "Ask with another token, or have the right given: docs/how-to/use-the-page.md."
    return RefusedRequestError(HTTPStatus.FORBIDDEN, Failure("api-forbidden", cause, advice))


def _check_id(values: Values) -> None:
    if "id" in values and "namespace" not in values:
        raise p.invalid("namespace", "an id belongs to a namespace: name it, too")


def _stream(cluster: str, values: Values) -> str:
    return f"checkpoint/{cluster}/{values['namespace']}/{values['id']}"


def _key(row: Mapping[str, Any]) -> CheckpointKey:
    return CheckpointKey(row["cluster"], row["namespace"], row["id"])


class Route(msgspec.Struct, frozen=True):
    """One question."""

    path: str
    about: str
    params: tuple[p.Param, ...]
    form: str
    """The name of its answer's form, in :func:`controlplane.http.api.responses.schemas`."""
    answer: Answer


def _view(name: View, *params: p.Param) -> Route:
    async def answer(questions: Questions, viewer: Viewer, values: Values) -> Rows:
        return await questions.view(viewer, values, name)

    return Route(f"/api/v1/views/{name}", CONTRACT[name].row, (*params, p.BEFORE, p.LIMIT), name, answer)


_OF_LOG: Final = (p.NAMESPACE, p.ID, p.NODE, p.TYPE)
_BY_KEY: Final = (p.NAMESPACE, p.ID)
ROUTES: Final = (
    Route("/api/v1/me", "Who asks, and what they see.", (), "Me", Questions.me),
    Route("/api/v1/overview", "Everything in a few numbers.", (p.NAMESPACE,), "Overview", Questions.overview),
    Route(
        "/api/v1/ids",
        "The newest state of every id, in the order of namespace and id.",
        (p.NAMESPACE, p.SEARCH, p.STATE, p.AFTER_ID, p.LIMIT),
        "Ids",
        Questions.ids,
    ),
    Route("/api/v1/ids/{namespace}/{id}", "One id now, and why.", (p.IN_NAMESPACE, p.OF_ID), "Life", Questions.life),
    Route(
        "/api/v1/ids/{namespace}/{id}/choices",
        "How a container of the id would start on each node, now or at a position of the log. Nothing is changed.",
        (p.IN_NAMESPACE, p.OF_ID, p.NODE, p.POSITION),
        "Choices",
        Questions.choices,
    ),
    Route(
        "/api/v1/nodes",
        "Every node, in the order of their names: its row of the view `nodes`, and what its worker said last.",
        (p.NODE, p.AFTER_NODE, p.LIMIT),
        "Nodes",
        Questions.nodes,
    ),
    Route("/api/v1/causes", "Failures by their code.", (p.NAMESPACE, p.HOURS), "Causes", Questions.causes),
    Route("/api/v1/log", "The log, newest event first.", (*_OF_LOG, p.BEFORE, p.LIMIT), "events", Questions.log),
    _view("checkpoint_history", *_BY_KEY, p.NODE, p.STATUS, p.SNAPSHOT),
    _view("latest_snapshots", *_BY_KEY, p.NODE),
    _view("restore_history", *_BY_KEY, p.NODE),
    _view("failures", *_BY_KEY, p.NODE, p.CODE),
    _view("commands", *_BY_KEY, p.NODE, p.STATUS),
    _view("nodes", p.NODE, p.STATUS),
    _view("dead_letters", p.NODE),
)
TAIL: Final = "/api/v1/log/tail"
TAIL_PARAMS: Final = (*_OF_LOG, p.AFTER)
