"""Signed heads: where every chain of the log stood at a position, under a key that the database does not hold.

The chains show that nobody changed a part of the log (:mod:`controlplane.log.chain`). Whoever may write the database could write it
anew as a whole, chains included, but cannot sign the old heads again, and one of them, kept elsewhere, is enough to see that the log
is another one. A head is the digest of all streams' versions and hashes at one position, so it stands for every event until there.
"""

from __future__ import annotations

import binascii
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, select

from controlplane.log.chain import Problem
from controlplane.log.schema import archived_heads, archived_segments, events, log_head, streams, utc_text
from woodfrog.protocol import wire
from woodfrog.protocol.events import LogHeadSigned
from woodfrog.protocol.failures import Failure, FailureError

_CONTEXT: Final = "woodfrog.io 2026-11 event log: key of signed heads"
_LEAST_SECRET: Final = 32
_BATCH: Final = 5000
_TYPE: Final = LogHeadSigned.__struct_config__.tag


class HeadKey:
    """What signs heads: derived from a secret text, so that whatever makes Secrets can make it."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(blake3(secret, derive_key_context=_CONTEXT).digest())
        self.public = self._key.public_key().public_bytes_raw().hex()
        """The public key, 64 hex digits: what a verifier is to be given."""

    @classmethod
    def from_file(cls, path: Path) -> HeadKey:
        """Read the secret.

        Raises:
            FailureError: ``log-key-unusable``; the message never tells what is in the file.
        """
        advice = f"Put {_LEAST_SECRET} random characters or more into it, such as `openssl rand -base64 32` prints."
        try:
            secret = path.read_bytes().strip()
        except OSError as problem:
            cause = f"the key of the log's heads {path} cannot be read: {problem.strerror}"
            raise FailureError(Failure("log-key-unusable", cause, advice)) from problem
        if len(secret) < _LEAST_SECRET:
            raise FailureError(Failure("log-key-unusable", f"{path} holds {len(secret)} characters", advice))
        return cls(secret)

    def sign(self, cluster: str, position: int, heads: str, at: datetime) -> LogHeadSigned:
        """Sign where the chains stood at a position."""
        unsigned = LogHeadSigned(
            cluster=cluster, position=position, heads=heads, signed_at=at, public_key=self.public, signature=""
        )
        return msgspec.structs.replace(unsigned, signature=self._key.sign(_said(unsigned)).hex())


def _said(head: LogHeadSigned) -> bytes:
    return wire.encode([_CONTEXT, head.cluster, head.position, head.heads, utc_text(head.signed_at)])


def is_signed(head: LogHeadSigned, public: str) -> bool:
    """Return whether the head was signed by the owner of a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(head.signature), _said(head))
    except (InvalidSignature, ValueError, TypeError, binascii.Error):
        return False
    return True


def ends_digest(ends: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of where chains stand, given in the order of their names' bytes; however many, one at a time."""
    digest = blake3()
    for end in ends:
        digest.update(wire.encode(end) + b"\n")
    return digest.hexdigest()


def current(connection: Connection) -> tuple[int, str]:
    """Return the newest position and the digest of all heads there.

    One statement, since each has a snapshot of its own on PostgreSQL; read row by row, since ids that are forgotten keep their streams.
    """
    in_order = streams.c.stream.collate("BINARY" if connection.dialect.name == "sqlite" else "C")
    newest = select(log_head.c.position).scalar_subquery()
    chosen = select(newest, streams.c.stream, streams.c.version, streams.c.hash).order_by(in_order)
    position = 0

    def ends() -> Iterator[tuple[str, int, str]]:
        nonlocal position
        for position, stream, version, link in connection.execute(chosen.execution_options(yield_per=_BATCH)):  # noqa: B007
            yield stream, version, link

    digest = ends_digest(ends())
    return position, digest


def recorded(connection: Connection) -> list[LogHeadSigned]:
    """Return the signed heads that the log itself holds."""
    rows = connection.execute(select(events.c.data).where(events.c.type == _TYPE).order_by(events.c.position))
    return [wire.decode(data, LogHeadSigned) for (data,) in rows]


def problems(
    connection: Connection, heads: Collection[LogHeadSigned], *, public: str | None, cluster: str | None = None
) -> Iterator[Problem]:
    """Say what is wrong with heads, or with a log to which they do not belong. ``public`` is whose signatures are believed."""
    newest = connection.execute(select(log_head.c.position)).scalar_one()
    ends = {row.stream: (row.version, row.hash) for row in connection.execute(select(archived_heads))}
    archived = connection.execute(
        select(archived_segments.c.last_position).order_by(archived_segments.c.last_position.desc()).limit(1)
    ).scalar()
    last = archived or 0
    for head in sorted(heads, key=lambda head: head.position):
        if not is_signed(head, public or head.public_key):
            yield Problem(head.position, "this head is not signed with the key")
        elif cluster is not None and head.cluster != cluster:
            yield Problem(head.position, f"this head is of the log of cluster {head.cluster}")
        elif head.position > newest:
            yield Problem(head.position, f"the log ends at position {newest}, before this head")
        elif head.position >= last:
            last = _walk(connection, ends, last, head.position)
            in_order = sorted(ends.items(), key=lambda end: end[0].encode())
            if ends_digest((stream, *end) for stream, end in in_order) != head.heads:
                yield Problem(head.position, "the log up to here is not the one whose head was signed")


def _walk(connection: Connection, ends: dict[str, tuple[int, str]], last: int, until: int) -> int:
    """Bring the chains' ends from position ``last`` on to ``until``."""
    chosen = select(events.c.position, events.c.stream, events.c.version, events.c.hash)
    while last < until:
        rows = connection.execute(
            chosen.where(events.c.position > last, events.c.position <= until).order_by(events.c.position).limit(_BATCH)
        ).all()
        if not rows:
            break
        for row in rows:
            ends[row.stream] = (row.version, row.hash)
        last = rows[-1].position
    return last
