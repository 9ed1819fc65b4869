"""An event as an AUDIT message: the event's JSON as the payload, everything about it in headers.

The headers follow the CloudEvents NATS protocol binding 1.0.3-wip in binary mode: each attribute becomes a header ``ce-…``
with its value percent-encoded, ``datacontenttype`` among them. Values of our own ride as CloudEvents extension attributes,
whose names may hold lower-case letters and digits only. ``docs/reference/audit.md`` is written from this module.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

import nats.js.api

from controlplane.log.records import Recorded
from woodfrog.protocol import wire
from woodfrog.protocol.events import SCHEMA_VERSION, UnknownEvent, event_type
from woodfrog.protocol.subjects import POSITION_HEADER, token

COMMANDS_SEQUENCE_HEADER: Final = "Woodfrog-Commands-Sequence"
"""The last sequence of COMMANDS when this event was published: how the relay, after a crash, tells a command that was sent
from one that was not, however long it was away."""


_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_needs_no_encoding = re.compile(f"[{re.escape(_PRINTABLE)}]*").fullmatch


def _encoded(value: str) -> str:
    """Percent-encode as the HTTP binding §3.1.3.2 says: blanks, quotes, percent signs and all that is not printable ASCII."""
    return value if _needs_no_encoding(value) else quote(value, safe=_PRINTABLE)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def payload(recorded: Recorded) -> bytes:
    """Give the event's JSON; of one that this release does not know, as it was written."""
    event = recorded.event
    return event.data.encode() if isinstance(event, UnknownEvent) else wire.encode(event)


def headers(recorded: Recorded, *, cluster: str, commands_sequence: int) -> dict[str, str]:
    """Build the headers of one event's message, those that JetStream acts upon included.

    ``Nats-Expected-Last-Sequence`` makes the broker refuse a message that does not follow directly upon the one before:
    of two relays that both believe to lead, one fails, and a gap or a repetition cannot be stored.
    """
    attributes = {
        "specversion": "1.0",
        "id": str(recorded.event_id),
        "source": f"/woodfrog/clusters/{token(cluster)}",
        "type": f"io.woodfrog.{event_type(recorded.event)}.v{SCHEMA_VERSION}",
        "subject": recorded.stream,
        "time": _time(recorded.occurred_at),
        "datacontenttype": "application/json",
        "sequence": str(recorded.position),
        "streamversion": str(recorded.version),
        "recordedtime": _time(recorded.recorded_at),
        "actor": recorded.metadata.actor,
        "causation": recorded.metadata.causation,
        "hash": recorded.hash,
    }
    if recorded.metadata.correlation is not None:
        attributes["correlation"] = recorded.metadata.correlation
    if recorded.metadata.trace:
        attributes["traceparent"] = recorded.metadata.trace
    return {
        nats.js.api.Header.MSG_ID.value: str(recorded.event_id),
        nats.js.api.Header.EXPECTED_LAST_SEQUENCE.value: str(recorded.position - 1),
        POSITION_HEADER: str(recorded.position),
        COMMANDS_SEQUENCE_HEADER: str(commands_sequence),
        **{f"ce-{name}": _encoded(value) for name, value in attributes.items()},
    }
