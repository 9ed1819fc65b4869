"""The names of streams, consumers and subjects, built here and nowhere else.

NATS splits subjects at dots and gives ``*``, ``>`` and blanks a meaning, while node names and ids may hold dots: every
name that comes from outside is encoded before it becomes a token (ADR-6 of nats-architecture-and-design lists the rules).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from woodfrog.protocol.events import AnyEvent, event_type, stream_of
from woodfrog.protocol.ids import NodeName

PREFIX: Final = "woodfrog.v1"
_REMEMBERED_TOKENS: Final = 16_384

REPORTS_STREAM: Final = "REPORTS"
COMMANDS_STREAM: Final = "COMMANDS"
AUDIT_STREAM: Final = "AUDIT"
PODS_STREAM: Final = "PODS"

REPORTS_ALL: Final = f"{PREFIX}.reports.*"
COMMANDS_ALL: Final = f"{PREFIX}.commands.*"
AUDIT_ALL: Final = f"{PREFIX}.audit.>"
PODS_ALL: Final = f"{PREFIX}.pods.*.*"
HEARTBEATS_ALL: Final = f"{PREFIX}.heartbeats.*"

INGEST_CONSUMER: Final = "controlplane"
PODS_CONSUMER: Final = "controlplane"

RESOLVE_ALL: Final = f"{PREFIX}.resolve.*"
CHECKPOINT: Final = f"{PREFIX}.control.checkpoint"
SNAPSHOT: Final = f"{PREFIX}.control.snapshot"
IMPORT: Final = f"{PREFIX}.control.import"
FORGET: Final = f"{PREFIX}.control.forget"
QUERY: Final = f"{PREFIX}.control.query"
CONTROL_ALL: Final = f"{PREFIX}.control.*"

POSITION_HEADER: Final = "Woodfrog-Position"
"""Header of every AUDIT message: the event's position in the log, so that a gap can be proved."""


@lru_cache(_REMEMBERED_TOKENS)
def token(name: str) -> str:
    """Encode a name as one subject token: letters, digits, ``-`` and ``_`` stay, the rest becomes ``%XX``."""
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E")


def reports(node: NodeName) -> str:
    """Where a node's worker publishes its reports."""
    return f"{PREFIX}.reports.{token(node)}"


def commands(node: NodeName) -> str:
    """Where a node's worker finds its commands."""
    return f"{PREFIX}.commands.{token(node)}"


def commands_consumer(node: NodeName) -> str:
    """Name the durable consumer of a node's commands."""
    return f"node-{token(node)}"


def resolve(node: NodeName) -> str:
    """Where a node's worker asks how to start a container; who may publish there speaks for the node."""
    return f"{PREFIX}.resolve.{token(node)}"


def inbox(node: NodeName) -> str:
    """Prefix of the subjects over which a node's worker is answered: its alone, like those that it publishes to."""
    return f"_INBOX_{token(node)}"


def heartbeats(node: NodeName) -> str:
    """Where a node's worker gives signs of life."""
    return f"{PREFIX}.heartbeats.{token(node)}"


def node_of_heartbeats(subject: str) -> NodeName:
    """Return whose heartbeats a subject carries."""
    return NodeName(unquote(subject.rpartition(".")[2]))


def pods(namespace: str, pod: str) -> str:
    """Where what happens to a pod is published."""
    return f"{PREFIX}.pods.{token(namespace)}.{token(pod)}"


def audit(event: AnyEvent) -> str:
    """Where an event is published: ``…audit.node.<type>.<node>``, ``…audit.id.<type>.<cluster>.<namespace>.<id>`` or ``…audit.log.<type>.<cluster>``.

    The type's dot becomes a dash, so that ``…audit.id.snapshot-stored.>`` is every stored snapshot.
    """
    about, *names = stream_of(event).split("/")
    kind = event_type(event).replace(".", "-")
    return ".".join([f"{PREFIX}.audit.{about if about in {'node', 'log'} else 'id'}", token(kind), *map(token, names)])
