"""The worker's socket: private, patient with nonsense, and sure to answer."""

# ruff: noqa: ASYNC240 -- looking at one file does not block a test

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeworker.agent.local_server import Answerer, LocalServer
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import Containers, CreateRequest, Done, ListContainersRequest, LocalAnswer, LocalAsk

pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wf-"))
    yield folder / "worker.sock"
    shutil.rmtree(folder)


@asynccontextmanager
async def listening(path: Path, answer: Answerer) -> AsyncIterator[LocalServer]:
    server = LocalServer(path, answer)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(1.0)


async def say(path: Path, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    await writer.drain()
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    told: dict[str, Any] = json.loads(answer)
    return told


async def nobody(ask: LocalAsk) -> LocalAnswer:
    return Containers(()) if isinstance(ask, ListContainersRequest) else Done()


async def test_only_root_may_connect(path: Path) -> None:
    async with listening(path, nobody):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_request_is_answered_by_its_kind(path: Path) -> None:
    async with listening(path, nobody):
        assert await say(path, b'{"ask":"containers"}\n') == {"answer": "containers", "containers": []}
        assert await say(path, b'{"ask":"started","container_id":"c1"}\n') == {"answer": "done"}


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"{}\n", b'{"ask":"unheard-of"}\n', b'{"ask":"stop"}\n', b'{"ask":"containers","more":1}\n']
)
async def test_a_request_that_cannot_be_read_is_refused_with_a_reason(path: Path, line: bytes) -> None:
    async with listening(path, nobody):
        refused = await say(path, line)
    assert refused["answer"] == "refused"
    assert refused["failure"]["code"] == "malformed-request"


async def test_a_fault_in_the_worker_is_told_and_the_next_request_is_answered(path: Path) -> None:
    async def broken(ask: LocalAsk) -> LocalAnswer:
        if ask == ListContainersRequest():
            raise RuntimeError("a fault")
        return Done()

    async with listening(path, broken):
        refused = await say(path, b'{"ask":"containers"}\n')
        assert refused["failure"]["code"] == "internal"
        assert await say(path, b'{"ask":"deleted","container_id":"c1","exit_code":0}\n') == {"answer": "done"}


async def test_a_dead_workers_socket_is_replaced(path: Path) -> None:
    path.touch()
    async with listening(path, nobody):
        assert (await say(path, b'{"ask":"containers"}\n'))["answer"] == "containers"


async def test_an_answer_under_way_is_finished_before_the_end_and_nobody_new_is_let_in(path: Path) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(ask: LocalAsk) -> LocalAnswer:
        asked.set()
        await release.wait()
        return Done()

    server = LocalServer(path, slow)
    await server.start()
    pending = asyncio.create_task(say(path, b'{"ask":"containers"}\n'))
    await asked.wait()
    await server.refuse_new()
    with pytest.raises(OSError, match="No such file"):
        await asyncio.open_unix_connection(str(path))
    release.set()
    await server.stop(5.0)
    assert await pending == {"answer": "done"}


async def test_the_longest_path_that_a_socket_can_have_is_enough(path: Path) -> None:
    longest = path.parent / ("d" * (107 - len(f"{path.parent}//worker.sock"))) / "worker.sock"
    longest.parent.mkdir()
    assert len(str(longest)) == 107
    async with listening(longest, nobody):
        assert await say(longest, b'{"ask":"containers"}\n')


async def test_a_create_ends_with_whoever_asked_for_it_and_a_stop_does_not(path: Path) -> None:
    began, ended, gone = asyncio.Event(), list[str](), asyncio.Queue[ContainerId]()
    go = asyncio.Event()

    async def answer(ask: LocalAsk) -> LocalAnswer:
        began.set()
        try:
            await go.wait()
        finally:
            ended.append("cancelled" if isinstance(ask, CreateRequest) and not go.is_set() else "done")
        return Done()

    async def void(container_id: ContainerId) -> None:
        await gone.put(container_id)

    server = LocalServer(path, answer, void)
    await server.start()
    try:
        for question in (
            {"ask": "create", "container_id": "c1", "bundle": "/b", "runc_root": "/r", "checkpoint_id": "i"},
            {"ask": "stop", "container_id": "c1"},
        ):
            began.clear()
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(json.dumps(question).encode() + b"\n")
            await began.wait()
            writer.close()
            await writer.wait_closed()
            if question["ask"] == "create":
                assert await gone.get() == "c1"
                assert ended == ["cancelled"]
        go.set()
    finally:
        await server.stop(1.0)
    assert ended == ["cancelled", "done"]
    assert gone.empty()
