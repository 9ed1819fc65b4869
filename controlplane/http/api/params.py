"""What may be asked of the API, read strictly: a parameter that is unknown, given twice or not what it has to be is refused by its name.

The same declarations are what the OpenAPI document says of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from controlplane.http.api.viewers import RefusedRequestError
from woodfrog.protocol.events import EVENT_TYPES
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import MAX_ID_LENGTH

_NAME: Final = r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$"
_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_LARGEST: Final = 2**53 - 1
"""What JavaScript counts exactly."""
_WANTED: Final = {
    _NAME: "letters, digits, '.', '_' or '-', with a letter or a digit at both ends",
    _NO_CONTROLS: "text without control characters",
}


class Param(msgspec.Struct, frozen=True):
    """One parameter."""

    name: str
    about: str
    kind: Literal["string", "integer"] = "string"
    place: Literal["query", "path", "header"] = "query"
    pattern: str = _NO_CONTROLS
    """Of the whole text, from ``^`` to ``$``."""
    longest: int = MAX_ID_LENGTH
    least: int = 0
    most: int = _LARGEST
    choices: tuple[str, ...] = ()
    default: int | None = None

    def read(self, text: str) -> str | int:
        """Read what was given.

        Raises:
            RefusedRequestError: it may not be that.
        """
        if self.kind == "integer":
            if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII) or not self.least <= int(text) <= self.most:
                raise self._refusal(text, f"a whole number from {self.least} to {self.most}")
            return int(text)
        if self.choices and text not in self.choices:
            raise self._refusal(text, f"one of {', '.join(self.choices)}")
        if not 1 <= len(text) <= self.longest:
            raise self._refusal(text, f"1 to {self.longest} characters")
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise self._refusal(text, _WANTED.get(self.pattern, f"text that matches {self.pattern}"))
        return text

    def schema(self) -> dict[str, Any]:
        """Describe it in JSON Schema."""
        if self.kind == "integer":
            found: dict[str, Any] = {"type": "integer", "minimum": self.least, "maximum": self.most}
            return found if self.default is None else found | {"default": self.default}
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        return {"type": "string", "minLength": 1, "maxLength": self.longest, "pattern": self.pattern}

    def _refusal(self, text: str, wanted: str) -> RefusedRequestError:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return invalid(self.name, f"{shown!r} is not allowed here: it must be {wanted}")


def invalid(field: str, problem: str) -> RefusedRequestError:
    """Refuse a request because of one parameter."""
    failure = Failure(
        "api-parameter", f"parameter {field}: {problem}", "Correct it; /api/v1/openapi.json describes every parameter."
    )
    return RefusedRequestError(HTTPStatus.BAD_REQUEST, failure, field=field)


def read(params: Iterable[Param], given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Read all of a request's parameters; those that were not given have their default, or are missing.

    Raises:
        RefusedRequestError: naming the first that is wrong.
    """
    known = {param.name: param for param in params}
    found: dict[str, Any] = {}
    for name, text in given:
        if name not in known:
            raise invalid(name[:60], f"there is no such parameter; there are: {', '.join(known) or 'none'}")
        if name in found:
            raise invalid(name, "it was given twice")
        found[name] = known[name].read(text)
    return {name: param.default for name, param in known.items() if param.default is not None} | found


NAMESPACE: Final = Param("namespace", "Only this namespace.", pattern=_NAME)
ID: Final = Param("id", "Only this checkpoint id; needs `namespace`.", pattern=_NAME)
NODE: Final = Param("node", "Only this node.", pattern=_NAME)
IN_NAMESPACE: Final = Param("namespace", "The namespace of the id.", place="path", pattern=_NAME)
OF_ID: Final = Param("id", "The checkpoint id.", place="path", pattern=_NAME)
OF_SNAPSHOT: Final = Param("snapshot_id", "The snapshot.", place="path", pattern=_NAME)
SEARCH: Final = Param("search", "Only ids that contain this text, in whatever case.")
STATE: Final = Param(
    "state",
    "Only ids whose newest container is in this state; `protected`: it runs, and there is a valid snapshot. Those that are `forgotten` are listed only if they are asked for.",
    choices=("running", "waiting", "starting", "ended", "forgotten", "protected"),
)
AFTER_ID: Final = Param(
    "after", "Where the page begins: `next` of the page before, `<namespace>/<id>`.", longest=2 * MAX_ID_LENGTH + 1,
    pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$",
)  # fmt: skip
AFTER_NODE: Final = Param("after", "Where the page begins: `next` of the page before, a node.", pattern=_NAME)
LIMIT: Final = Param("limit", "How many rows a page has.", "integer", least=1, most=500, default=100)
BEFORE: Final = Param("before", "Where the page begins: `next` of the page before.", "integer", least=1)
POSITION: Final = Param("position", "As of this position of the log; now if it is not given.", "integer", least=1)
TYPE: Final = Param("type", "Only events of this type.", choices=EVENT_TYPES)
STATUS: Final = Param("status", "Only rows of this status.", pattern=r"^[a-z-]+$", longest=32)
SNAPSHOT: Final = Param("snapshot_id", "Only this snapshot.", pattern=_NAME)
CODE: Final = Param("failure_code", "Only this code.", pattern=r"^[a-z0-9][a-z0-9-]*$", longest=64)
HOURS: Final = Param("hours", "Failures of so many last hours.", "integer", least=1, most=8760, default=24)
AFTER: Final = Param("after", "Begin behind this position; at the newest event if it is not given.", "integer")
LAST_EVENT_ID: Final = Param(
    "Last-Event-ID", "As `after`, and before it: what a client sends that reconnects.", "integer", place="header"
)
