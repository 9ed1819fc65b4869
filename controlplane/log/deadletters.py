"""Reports that were not believed, with the reason, where people look things up: in SQL.

They are no events: an event is what happened, is kept for ever and goes to every auditor, and a node that was broken into
could fill the log with what never happened. So they lie beside the log, fenced by the same epoch, and only the newest of each
subject are kept; the broker has the whole message for as long as its stream keeps it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.log.records import StaleEpochError, utc_now
from controlplane.log.schema import log_head, utc_text
from controlplane.log.side_tables import dead_letters
from controlplane.log.sql.engine import open_engine, reading, writing
from woodfrog.protocol.ids import EVENT_NAMESPACE, Epoch
from woodfrog.service.printable import printable

KEPT_PER_SUBJECT: Final = 1000
_EXCERPT_BYTES: Final = 4096
_LONGEST_REASON: Final = 1000

Kind = Literal["unreadable", "rejected", "forgotten", "overtaken", "undecidable"]
FORGOTTEN: Final = "forgotten"


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was put aside."""

    stream: str
    sequence: int
    """In ``stream``."""
    received_at: datetime
    """When the broker stored it; with the sequence it names the message for good, even if the stream is wiped."""
    subject: str
    node: str | None
    report_id: str | None
    """``None`` if the message could not be read."""
    kind: Kind
    """``unreadable``; ``rejected``: read, but not believed; ``forgotten``: the same, because its id was forgotten; ``overtaken``: it says nothing that later words do not say; ``undecidable``: it brought the decision down, a defect of ours."""
    reason: str
    data: bytes

    @property
    def letter_id(self) -> str:
        """Name it, the same however often the message is delivered."""
        return str(uuid.uuid5(EVENT_NAMESPACE, f"{self.stream}/{self.sequence}/{utc_text(self.received_at)}"))


class DeadLetters:
    """Where they are put. Used from one event loop; closed with :meth:`close`."""

    def __init__(self, url: str, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = open_engine(url)
        self._clock = clock

    async def put_aside(self, letters: Sequence[DeadLetter], *, epoch: Epoch) -> None:
        """Keep the letters, each once; they are on disk when this returns.

        Raises:
            StaleEpochError: another control plane took the lead.
            LogUnavailableError: the database cannot take them now.
        """
        if not letters:
            return
        async with writing(self._engine) as connection:
            head = (await connection.execute(select(log_head.c.position, log_head.c.epoch).with_for_update())).one()
            if head.epoch != epoch:
                raise StaleEpochError(epoch, Epoch(head.epoch))
            new = await self._unknown(connection, letters)
            if not new:
                return
            number = (await connection.execute(select(func.coalesce(func.max(dead_letters.c.number), 0)))).scalar_one()
            now = self._clock()
            await connection.execute(
                insert(dead_letters),
                [
                    {
                        "number": number + place,
                        "letter_id": letter.letter_id,
                        "position": head.position,
                        "stream": letter.stream,
                        "sequence": letter.sequence,
                        "subject": printable(letter.subject),
                        "node": None if letter.node is None else printable(letter.node),
                        "report_id": letter.report_id,
                        "kind": letter.kind,
                        "reason": printable(letter.reason)[:_LONGEST_REASON],
                        "excerpt": printable(letter.data[:_EXCERPT_BYTES].decode(errors="backslashreplace")),
                        "size_bytes": len(letter.data),
                        "received_at": letter.received_at,
                        "recorded_at": now,
                    }
                    for place, letter in enumerate(new, start=1)
                ],
            )
            for subject in {printable(letter.subject) for letter in new}:
                await _forget_old(connection, subject)

    async def _unknown(self, connection: AsyncConnection, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        by_id = {letter.letter_id: letter for letter in letters}
        known = await connection.execute(
            select(dead_letters.c.letter_id).where(dead_letters.c.letter_id.in_(list(by_id)))
        )
        for (letter_id,) in known:
            del by_id[letter_id]
        return list(by_id.values())

    async def hold(self, reports: Iterable[UUID]) -> dict[UUID, Kind]:
        """Find those of the reports that were put aside, and as what.

        Raises:
            LogUnavailableError: the database cannot be read now.
        """
        wanted = {str(report): report for report in reports}
        if not wanted:
            return {}
        async with reading(self._engine) as connection:
            found = await connection.execute(
                select(dead_letters.c.report_id, dead_letters.c.kind).where(dead_letters.c.report_id.in_(list(wanted)))
            )
            return {wanted[name]: kind for name, kind in found}

    async def close(self) -> None:
        """Give the connection back."""
        await self._engine.dispose()


async def _forget_old(connection: AsyncConnection, subject: str) -> None:
    newest = (
        select(dead_letters.c.number)
        .where(dead_letters.c.subject == subject)
        .order_by(dead_letters.c.number.desc())
        .limit(KEPT_PER_SUBJECT)
    )
    oldest_kept = (await connection.execute(select(func.min(newest.subquery().c.number)))).scalar_one()
    await connection.execute(
        delete(dead_letters).where(dead_letters.c.subject == subject, dead_letters.c.number < oldest_kept)
    )
