"""The forms of the API's answers. The OpenAPI document is made of them, and a test asks the API whether it keeps to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, get_args

import msgspec
from sqlalchemy import BigInteger, Boolean, Float, Integer
from sqlalchemy.types import TypeEngine

from controlplane.bus.node_statuses import NodeNow
from controlplane.core.what_if import Choice
from controlplane.describe import Explanation
from controlplane.log.projections.views import CONTRACT
from controlplane.log.schema import UtcTime
from controlplane.log.summary import Cause, IdState, Overview


class Me(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    everything: bool
    """Whether they see every namespace, and nodes."""
    namespaces: list[str]
    """Those with ids that they see."""
    cluster: str
    position: int
    """Of the newest event."""


class Rows(msgspec.Struct, frozen=True):
    """A page of rows, newest first. It may hold fewer than were asked for, and still be followed by another."""

    items: list[dict[str, Any]]
    next: int | None


class Ids(msgspec.Struct, frozen=True):
    """A page of ids, in the order of namespace and id."""

    items: list[dict[str, Any]]
    next: str | None


class Nodes(msgspec.Struct, frozen=True):
    """A page of nodes, in the order of their names."""

    items: list[dict[str, Any]]
    next: str | None


class Life(msgspec.Struct, frozen=True):
    """One id now."""

    now: dict[str, Any]
    explanation: Explanation | None
    """Why its last start was what it was; ``None`` if those events are archived."""
    archived: bool
    """Whether its first events are archived, and so not shown."""
    actions: list[str]
    """What whoever asks may do about it over the API."""


class Choices(msgspec.Struct, frozen=True):
    """How a container of an id would start on each node."""

    position: int
    at: datetime
    items: list[Choice]


class Causes(msgspec.Struct, frozen=True):
    """Failures by their code, the most frequent first."""

    items: list[Cause]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no answer."""

    code: str
    cause: str
    advice: str
    field: str = ""
    """The parameter that is wrong."""


TYPES: Final = (Me, Overview, Life, Choices, Causes, Problem)
_ID_STATE: Final = {
    "state": {"type": "string", "enum": [*get_args(IdState)]},
    "protected": {"type": "boolean"},
    "latest_snapshot": {"type": ["object", "null"]},
    "next_dump_at": {"type": ["string", "null"], "format": "date-time"},
    "last_dump": {"type": ["object", "null"]},
}
_NODE_NOW: Final = {
    "status": {
        "type": "string",
        "enum": ["ready", "lost", "unregistered"],
        "description": "`unregistered`: its worker was heard and never registered, and nothing else is known of it.",
    },
    "now": {
        "anyOf": [{"$ref": "#/components/schemas/NodeNow"}, {"type": "null"}],
        "description": "What its worker said last; null if it was not heard since this control plane began.",
    },
}
_EVENT: Final = {"what": {"type": "string", "description": "What happened, in a sentence."}}


def _column(name: str, kind: TypeEngine[Any], meaning: str) -> dict[str, Any]:
    if name in {"data", "metadata"}:
        return {"type": "object", "description": meaning}
    if name == "gpus":
        return {"type": ["array", "null"], "items": {"type": "object"}, "description": meaning}
    if isinstance(kind, UtcTime):
        return {"type": ["string", "null"], "format": "date-time", "description": meaning}
    plain = {BigInteger: "integer", Integer: "integer", Float: "number", Boolean: "boolean"}.get(type(kind), "string")
    return {"type": [plain, "null"], "description": meaning}


def _row(view: str, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    contract = CONTRACT[view]
    properties = {name: _column(name, kind, meaning) for name, kind, meaning in contract.columns} | (extra or {})
    return {"type": "object", "description": contract.row, "properties": properties, "required": sorted(properties)}


def _page(row: dict[str, Any], cursor: str) -> dict[str, Any]:
    properties = {"items": {"type": "array", "items": row}, "next": {"type": [cursor, "null"]}}
    return {"type": "object", "properties": properties, "required": ["items", "next"]}


def schemas(more: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return every form by its name, and those of some types, as OpenAPI's ``components.schemas``."""
    _, found = msgspec.json.schema_components((*TYPES, NodeNow, *more), ref_template="#/components/schemas/{name}")
    start = _row("restore_history", _ID_STATE)
    found["Life"]["properties"]["now"] = start
    found["Ids"] = _page(start, "string")
    found["Nodes"] = _page(_row("nodes", _NODE_NOW), "string")
    found["events"] = _page(_row("events", _EVENT), "integer")
    for view in CONTRACT:
        if view != "events":
            found[view] = _page(_row(view), "integer")
    return found
