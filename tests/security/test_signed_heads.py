"""A log that was rewritten as a whole is recognized by any signed head that was kept elsewhere."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.logstory import story
from typer.testing import CliRunner

from controlplane.core.loop import DecisionLoop
from controlplane.domain import Policy
from controlplane.head_signing import CONFIG_MAP, into_config_map, sign_heads
from controlplane.kube.api import ApiError
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from controlplane.log.heads import HeadKey, is_signed
from controlplane.log.records import NewEvent
from woodfrog.cli import main
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import LogHeadSigned
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import Position

pytestmark = pytest.mark.timeout(60)

SECRET = b"0123456789abcdef0123456789abcdef"
KEY, OTHER = HeadKey(SECRET), HeadKey(SECRET[::-1])


def now() -> datetime:
    return datetime.now(UTC)


def url_of(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/log.db"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    await upgrade(url_of(tmp_path))
    opened = await EventLog.open(url_of(tmp_path))
    await opened.append(story(), epoch=await opened.take_lead())
    yield opened
    await opened.close()


async def head_of(log: EventLog) -> LogHeadSigned:
    return KEY.sign("lab", *(await log.chain_heads()), now())


async def forged(folder: Path, *, without: int) -> EventLog:
    """A log with everything but one event, rewritten, chains and all."""
    await asyncio.to_thread(folder.mkdir)
    await upgrade(url_of(folder))
    log = await EventLog.open(url_of(folder))
    events = story()
    await log.append([*events[:without], *events[without + 1 :]], epoch=await log.take_lead())
    return log


async def test_a_log_goes_through_its_own_heads_however_it_grows(log: EventLog) -> None:
    head = await head_of(log)
    assert await log.head_problems([head], public=KEY.public) == []
    await log.append(more(), epoch=await log.take_lead())
    assert await log.head_problems([head, await head_of(log)], public=KEY.public) == []


def more() -> list[NewEvent]:
    return [replace(one, event_id=uuid.uuid4()) for one in story()]


async def test_a_log_that_was_written_anew_is_sound_by_itself_and_not_by_an_old_head(
    log: EventLog, tmp_path: Path
) -> None:
    head = await head_of(log)
    other = await forged(tmp_path / "forged", without=3)
    assert (await other.verify()).sound, "its chains are right: this is why a head has to be kept elsewhere"
    await other.append(more()[:5], epoch=await other.take_lead())
    (problem,) = await other.head_problems([head], public=KEY.public)
    assert "not the one whose head was signed" in problem.what
    await other.close()


async def test_a_log_that_was_cut_off_ends_before_the_head(log: EventLog, tmp_path: Path) -> None:
    head = await head_of(log)
    other = await forged(tmp_path / "forged", without=3)
    (problem,) = await other.head_problems([head], public=None)
    assert "before this head" in problem.what
    await other.close()


@pytest.mark.parametrize("field", ["heads", "position", "cluster", "signed_at"])
async def test_no_field_of_a_head_can_be_changed(log: EventLog, field: str) -> None:
    changed = {"heads": "0" * 64, "position": 1, "cluster": "other", "signed_at": datetime(2020, 1, 1, tzinfo=UTC)}
    head = replace(await head_of(log), **{field: changed[field]})
    assert [problem.what for problem in await log.head_problems([head], public=KEY.public)] == [
        "this head is not signed with the key"
    ]


async def test_another_key_is_not_believed_and_nonsense_raises_nothing(log: EventLog) -> None:
    head = await head_of(log)
    assert len(await log.head_problems([head], public=OTHER.public)) == 1
    assert not is_signed(head, "not hex")
    assert not is_signed(LogHeadSigned(
        cluster="", position=1, heads="", signed_at=now(), public_key="zz", signature="zz"), "ff" * 32)  # fmt: skip


async def test_heads_are_signed_into_the_log_and_published(log: EventLog) -> None:
    loop = DecisionLoop(log, epoch=await log.take_lead(), policy=Policy(), clock=now)
    await loop.load()
    before = await log.head()
    published: list[LogHeadSigned] = []

    async def publish(head: LogHeadSigned) -> None:
        published.append(head)

    running = asyncio.create_task(loop.run())
    signing = asyncio.create_task(sign_heads(log, loop, KEY, "lab", clock=now, publish=publish, every_seconds=0.01))
    while await log.head() == before or not published:  # noqa: ASYNC110 -- the test's time is the bound
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    for task in (signing, running):
        task.cancel()
    await asyncio.gather(signing, running, return_exceptions=True)
    (recorded,) = await log.read(before, 10)
    assert published == [recorded.event], "a log in which nothing happened is not signed again"
    assert (recorded.stream, subjects.audit(recorded.event)) == (
        "log/lab",
        f"{subjects.PREFIX}.audit.log.log-head-signed.lab",
    )
    assert await log.signed_heads() == published
    assert await log.head_problems(published, public=KEY.public) == []
    assert (await log.verify()).sound
    state = loop._state
    await loop.load()
    assert loop._state == state
    assert await log.head() == Position(before + 1)


def verify(folder: Path, *words: str) -> tuple[int, str]:
    url = f"sqlite:///{folder}/log.db"
    result = CliRunner().invoke(main.app, ["log", "verify", "--database-url", url, *words])
    return result.exit_code, result.stdout + result.stderr


async def test_an_auditor_verifies_with_a_head_and_with_a_key(log: EventLog, tmp_path: Path) -> None:
    head = tmp_path / "head.json"
    await asyncio.to_thread(head.write_bytes, wire.encode(await head_of(log)))
    await (await forged(tmp_path / "forged", without=3)).close()
    run = asyncio.to_thread
    assert (await run(verify, tmp_path))[0] == 0
    code, said = await run(verify, tmp_path, "--head", str(head), "--key", KEY.public)
    assert (code, "1 signed heads were compared" in said) == (0, True)
    code, said = await run(verify, tmp_path / "forged", "--head", str(head), "--key", KEY.public)
    assert (code, "NOT as it was written" in said) == (1, True)
    code, said = await run(verify, tmp_path, "--head", str(head), "--key", OTHER.public)
    assert (code, "not signed with the key" in said) == (1, True)
    for words in (("--key", "short"), ("--head", str(tmp_path / "log.db"))):
        code, said = await run(verify, tmp_path, *words)
        assert (code, "log-head-unusable" in said) == (1, True)


async def test_the_database_holds_nothing_that_could_sign(log: EventLog, tmp_path: Path) -> None:
    await log.append([], epoch=await log.take_lead())
    text = "".join(await asyncio.to_thread(lambda: list(sqlite3.connect(tmp_path / "log.db").iterdump())))
    assert SECRET.decode() not in text


def test_a_key_file_that_holds_no_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2\n")
    for each in (path, tmp_path / "missing"):
        with pytest.raises(FailureError) as caught:
            HeadKey.from_file(each)
        assert caught.value.failure.code == "log-key-unusable"
        assert "hunter2" not in str(caught.value)
    path.write_bytes(SECRET + b"\n")
    assert HeadKey.from_file(path).public == KEY.public


async def test_the_head_is_put_into_a_config_map(log: EventLog) -> None:
    held: dict[str, object] = {}

    class Api:
        async def ask(self, method: str, path: str, answer: type, body: dict, /) -> dict:  # type: ignore[type-arg]
            assert path == "/api/v1/namespaces/ns/configmaps" + (f"/{CONFIG_MAP}" if method == "PUT" else "")
            if method == "PUT" and not held:
                raise ApiError(404, "not found")
            held.update(body["data"])
            return body

    publish = into_config_map(Api(), "ns")  # type: ignore[arg-type]
    for _ in range(2):
        head = await head_of(log)
        await publish(head)
        assert wire.decode(str(held["head.json"]), LogHeadSigned) == head
    assert json.loads(str(held["head.json"]))["public_key"] == held["public-key"] == KEY.public
