"""The OpenAPI document, made of the same tables that the server answers by."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from controlplane.http.api.params import LAST_EVENT_ID, Param
from controlplane.http.api.queries import ROUTES, TAIL, TAIL_PARAMS
from controlplane.http.api.responses import schemas

_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS: Final = {
    "400": "A parameter is wrong; `field` names it.",
    "401": "The token is missing, unknown or has expired.",
    "403": "Whoever asks may not see it.",
    "404": "There is no such id.",
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
def document() -> bytes:
    """Write the document."""
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
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "Woodfrog",
                    "version": "1",
                    "description": "What the log of checkpoints and restores says. Read-only.",
                    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                },
                "paths": paths,
                "components": {
                    "schemas": schemas(),
                    "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
                },
                "security": [{"token": []}],
            }
        ),
        indent=2,
    )
