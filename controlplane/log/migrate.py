"""Bring a database to the schema that this code needs."""

from __future__ import annotations


async def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at ``url`` up to ``revision``; harmless when it is there already."""
    raise NotImplementedError
