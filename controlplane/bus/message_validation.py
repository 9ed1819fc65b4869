"""Reports and requests read as messages from an enemy: the names in them are names, whoever sends them.

What a node calls a snapshot, a container or a command later stands in paths, object keys, tables and terminals. Everything behind
this door may rely on their form; a message that breaks it is refused with the field and the rule.

*Requests* are read tolerantly: a field that a newer sender added is passed over, so that in a rolling update, in whatever order,
nobody is refused for saying more than is understood. Whoever adds something without which a request would mean another thing
raises its ``version``, and a reader that does not know that version refuses it as a whole.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

from woodfrog.protocol import wire
from woodfrog.protocol.facts import FRESH_CHARS
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CONTAINER_ID, CheckpointKey, check_id
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import NEWEST_VERSION, ImportRequest, ResolveRequest

_IDS: Final = {
    "snapshot_id": "snapshot id",
    "restored_from": "snapshot id",
    "command_id": "command id",
    "worker_id": "worker id",
    "boot_id": "boot id",
    "node": "node",
}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ORIGIN: Final = re.compile(r"[A-Za-z0-9._-]{1,253}(/[A-Za-z0-9._-]{1,253}){3}", re.ASCII)
_CODE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_POD: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_CREATE: Final = re.compile(r"[0-9a-f]{0,32}", re.ASCII)

_LONGEST_NAME: Final = 253
_LONGEST_REASON: Final = 4000
_MOST: Final = 1 << 53
"""Of bytes and of seconds: what every reader of JSON takes exactly."""

T = TypeVar("T")


def request(data: bytes, kind: type[T]) -> T:
    """Read a request.

    Raises:
        MalformedMessageError: it is none, or a field of it is not what it has to be.
        FailureError: ``request-too-new``.
    """
    found: Any = wire.decode(data, kind)
    if found.version > NEWEST_VERSION:
        raise FailureError(
            Failure(
                "request-too-new",
                f"the request is of version {found.version}, this control plane knows {NEWEST_VERSION}",
                "Upgrade the control plane (`helm upgrade`), or ask with a client of its release.",
            )
        )
    because = getattr(found, "because", "")
    if len(because) > _LONGEST_REASON or "\0" in because:  # PostgreSQL holds no NUL, and a log may move there any day
        raise wire.MalformedMessageError(
            f"a reason has at most {_LONGEST_REASON} characters, and no NUL among them - at `$.because`"
        )
    read: T = found
    return read


def resolve_request(data: bytes) -> ResolveRequest:
    """Read a worker's question.

    Raises:
        MalformedMessageError, InvalidIdError, FailureError: as :func:`request`.
    """
    asked = request(data, ResolveRequest)
    CheckpointKey.checked(asked.key.cluster, asked.key.namespace, asked.key.id)
    check_id(asked.node, "node")
    check_id(asked.worker_id, "worker id")
    check_container_id(asked.container_id)
    for field, name in (("pod", asked.container.pod), ("pod_uid", asked.container.pod_uid)):
        if name is not None and not _POD.fullmatch(name):
            raise wire.MalformedMessageError(f"{name[:60]!r} is not a name of a pod - at `$.container.{field}`")
    if not _CREATE.fullmatch(asked.create_id):
        raise wire.MalformedMessageError(f"{asked.create_id[:60]!r} does not name a create - at `$.create_id`")
    if len(asked.container.fresh) > FRESH_CHARS:
        raise wire.MalformedMessageError("it is too long - at `$.container.fresh`")
    return asked


def actor_of(by: str) -> str:
    """Return as whose act something is recorded that people ask for.

    Raises:
        MalformedMessageError: the name may not be one.
    """
    if len(by) > _LONGEST_NAME or not by.isprintable():
        raise wire.MalformedMessageError(f"{by[:60]!r} is not a name - at `$.by`")
    return f"user/{by}" if by else "request"


def import_request(data: bytes) -> ImportRequest:
    """Read a request to take a snapshot in.

    Raises:
        MalformedMessageError, InvalidIdError, FailureError: as :func:`request`.
    """
    asked = request(data, ImportRequest)
    CheckpointKey.checked(asked.key.cluster, asked.key.namespace, asked.key.id)
    check_id(asked.snapshot_id, "snapshot id")
    if not _ORIGIN.fullmatch(asked.origin):
        raise wire.MalformedMessageError(f"{asked.origin[:60]!r} is not the name of a snapshot - at `$.origin`")
    if not asked.only_check and not _DIGEST.fullmatch(asked.manifest_digest):
        raise wire.MalformedMessageError(
            f"{asked.manifest_digest[:70]!r} is not a digest of 64 hex digits - at `$.manifest_digest`"
        )
    if (problem := wire.time_problem(asked.taken_at)) is not None:
        raise wire.MalformedMessageError(f"{problem} - at `$.taken_at`")
    if (place := wire.nul_in(asked)) is not None:  # PostgreSQL holds none, and a log may move there any day
        raise wire.MalformedMessageError(f"a text holds a NUL - at `{place}`")
    for field in ("raw_bytes", "stored_bytes"):
        if not 0 <= getattr(asked, field) <= _MOST:
            raise wire.MalformedMessageError(f"{getattr(asked, field)!s:.60} is not a valid amount - at `$.{field}`")
    return asked


def check_container_id(text: str) -> None:
    """Check the name of a container, which engines let people choose.

    Raises:
        MalformedMessageError: it may not be one.
    """
    if not CONTAINER_ID.fullmatch(text):
        raise wire.MalformedMessageError(f"{text[:60]!r} is not a name of a container - at `$.container_id`")


def check_names(report: Report) -> None:
    """Check every name in a report, and every amount.

    Raises:
        InvalidIdError, MalformedMessageError: naming the field.
    """
    event = report.event
    check_id(report.node, "node")
    check_id(report.worker_id, "worker id")
    for field, shown in _IDS.items():
        text = getattr(event, field, None)
        if text is not None:
            check_id(text, shown)
    if (container_id := getattr(event, "container_id", None)) is not None:
        check_container_id(container_id)
    digest = getattr(event, "manifest_digest", None)
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise wire.MalformedMessageError(
            f"{digest[:70]!r} is not a digest of 64 hex digits - at `$.event.manifest_digest`"
        )
    for field in event.__struct_fields__:
        amount = getattr(event, field) if field.endswith(("_bytes", "_seconds")) else None
        if amount is not None and not 0 <= amount <= _MOST:  # sums are made of them: quotas, retention
            raise wire.MalformedMessageError(f"{amount!s:.60} is not a valid amount - at `$.event.{field}`")
    failure = getattr(event, "failure", None)
    if failure is not None and not _CODE.fullmatch(failure.code):
        raise wire.MalformedMessageError(f"{failure.code[:60]!r} is not a code - at `$.event.failure.code`")
