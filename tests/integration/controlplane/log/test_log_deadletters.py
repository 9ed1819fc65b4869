"""Dead letters: each once, fenced, bounded, and fit for every database whatever bytes they hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest
from support.databases import Database

from controlplane.log import EventLog, StaleEpochError, deadletters
from controlplane.log.deadletters import DeadLetter, DeadLetters
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LETTER = DeadLetter(
    stream="REPORTS", sequence=7, received_at=NOON, subject=subjects.reports(NodeName("a")), node="a", report_id=None,
    kind="unreadable", reason="no JSON", data=b"\x00\xff\x1b[31m not json\n",
)  # fmt: skip


@pytest.fixture
async def letters(database: Database) -> AsyncIterator[DeadLetters]:
    letters = DeadLetters(database.url)
    yield letters
    await letters.close()


async def test_a_letter_delivered_again_is_kept_once_and_shows_what_it_was(letters: DeadLetters, log: EventLog) -> None:
    epoch = await log.take_lead()
    for _ in range(2):
        await letters.put_aside([LETTER, LETTER], epoch=epoch)
    (row,) = await log.query("dead_letters")
    assert (row["node"], row["sequence"], row["kind"], row["reason"]) == ("a", 7, "unreadable", "no JSON")
    assert row["excerpt"] == r"\u0000\xff\u001b[31m not json\u000a"
    assert row["size_bytes"] == len(LETTER.data)
    assert row["received_at"] == "2026-11-23T12:00:00.000000Z"


async def test_the_same_sequence_of_a_stream_made_anew_is_another_letter(letters: DeadLetters, log: EventLog) -> None:
    epoch = await log.take_lead()
    later = msgspec.structs.replace(LETTER, received_at=datetime(2026, 11, 24, tzinfo=UTC))
    await letters.put_aside([LETTER, later], epoch=epoch)
    assert [row["number"] for row in await log.query("dead_letters")] == [1, 2]


async def test_who_lost_the_lead_puts_nothing_aside(letters: DeadLetters, log: EventLog) -> None:
    epoch = await log.take_lead()
    await log.take_lead()
    with pytest.raises(StaleEpochError):
        await letters.put_aside([LETTER], epoch=epoch)
    assert await log.query("dead_letters") == []


async def test_a_node_that_floods_pushes_out_its_own_letters_and_no_others(
    letters: DeadLetters, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "KEPT_PER_SUBJECT", 10)
    epoch = await log.take_lead()
    await letters.put_aside([LETTER], epoch=epoch)
    flood = [
        msgspec.structs.replace(LETTER, sequence=number, subject=subjects.reports(NodeName("b")), node="b")
        for number in range(100, 125)
    ]
    for start in range(0, 25, 5):
        await letters.put_aside(flood[start : start + 5], epoch=epoch)
    rows = await log.query("dead_letters")
    assert [row["sequence"] for row in rows] == [7, *range(115, 125)]


async def test_names_and_reasons_that_no_database_takes_are_escaped(letters: DeadLetters, log: EventLog) -> None:
    epoch = await log.take_lead()
    odd = msgspec.structs.replace(
        LETTER, node="a\x00b", subject="woodfrog.v1.reports.\x07", reason="\x00\ud800" + "x" * 5000
    )
    await letters.put_aside([odd], epoch=epoch)
    (row,) = await log.query("dead_letters")
    assert row["node"] == r"a\u0000b"
    assert row["reason"].startswith(r"\u0000\ud800xxx")
    assert len(row["reason"]) == 1000
