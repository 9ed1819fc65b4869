"""What is recorded of the log itself."""

from __future__ import annotations

from datetime import datetime

from woodfrog.protocol.events.base import EventBase

__all__ = [
    "LogHeadSigned",
]


class LogHeadSigned(EventBase, frozen=True, kw_only=True, tag="log.head-signed"):
    """Where all chains of the log stood at a position, signed by a key that the database does not hold."""

    cluster: str
    position: int
    heads: str
    """BLAKE3 over the version and hash of every stream there, 64 hex digits."""
    signed_at: datetime
    public_key: str
    """Ed25519, 64 hex digits."""
    signature: str
    """128 hex digits."""

    def __str__(self) -> str:
        return f"the log's head at position {self.position} was signed"
