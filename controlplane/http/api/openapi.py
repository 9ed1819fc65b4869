"""The OpenAPI document, made of the same tables that the server answers by."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from controlplane.http.api.actions import ACTIONS, Action, Done
from controlplane.http.api.params import LAST_EVENT_ID, Param
from controlplane.http.api.queries import ROUTES, TAIL, TAIL_PARAMS
from controlplane.http.api.responses import schemas

_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS: Final = {
    "400": "A parameter is wrong; `field` names it.",
    "401": "The token is missing, unknown or has expired.",
    "403": "The caller may not see it, or not do it.",
    "404": "The id, the snapshot or the position does not exist.",
    "503": "Too much is asked at once, or the log or Kubernetes cannot be asked.",
}


def _parameter(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": param.place,
        "description": param.about,
        "required": param.place == "path",
        "schema": param.schema(),
    }


_BODIES: Final = (Done, *{action.body: None for action in ACTIONS})
_CONFLICTS: Final = {
    "405": "Another method is needed; `Allow` names it.",
    "409": "Something speaks against it: the snapshot is pinned or the latest, no container runs, a dump is under way.",
    "413": "The body is too large.",
    "415": "The body is not `application/json`.",
}


def _act(action: Action) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{action.body.__name__}"}}}
    done = {"application/json": {"schema": {"$ref": "#/components/schemas/Done"}}}
    refusals = {**_REFUSALS, **_CONFLICTS}
    return {
        "post": {
            "operationId": f"{action.path.split('/')[3]}-{action.name}",
            "summary": action.about,
            "parameters": [_parameter(param) for param in action.params],
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": {"description": "It is recorded.", "content": done},
                **{status: {"description": about, "content": _PROBLEM} for status, about in refusals.items()},
            },
        }
    }


def _operation(name: str, about: str, params: tuple[Param, ...], content: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "summary": about,
            "parameters": [_parameter(param) for param in params],
            "responses": {
                "200": {"description": "The answer.", "content": content},
                "304": {"description": "The answer is what `If-None-Match` names."},
                **{status: {"description": about, "content": _PROBLEM} for status, about in _REFUSALS.items()},
            },
        }
    }


@cache
def document(*, acts: bool = False) -> bytes:
    """Write the document; of what may be changed where the API ``acts``."""
    paths = {
        route.path: _operation(
            route.path.removeprefix("/api/v1/").replace("{", "").replace("}", "").replace("/", "-"),
            route.about,
            route.params,
            {"application/json": {"schema": {"$ref": f"#/components/schemas/{route.form}"}}},
        )
        for route in ROUTES
    }
    paths[TAIL] = _operation(
        "log-tail",
        "The log as it grows: server-sent events, each with its position as id and a row of `events` as data.",
        (*TAIL_PARAMS, LAST_EVENT_ID),
        {"text/event-stream": {"schema": {"type": "string"}}},
    )
    if acts:
        paths |= {action.path: _act(action) for action in ACTIONS}
    reads = "What the log of checkpoints and restores says."
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "Woodfrog",
                    "version": "1",
                    "description": f"{reads} {'With what may be done about snapshots.' if acts else 'Read-only.'}",
                    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                },
                "paths": paths,
                "components": {
                    "schemas": schemas(_BODIES if acts else ()),
                    "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
                },
                "security": [{"token": []}],
            }
        ),
        indent=2,
    )
