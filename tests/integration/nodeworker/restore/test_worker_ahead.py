"""A create that the shell part announces is begun before it asks, and decided about once, whatever comes in which order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from nodeworker.restore import speculative_create
from nodeworker.restore.speculative_create import SpeculativeCreates
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import CreateCold, CreateRequest, LocalAnswer

pytestmark = pytest.mark.timeout(20)

C1 = ContainerId("c1")
COLD = CreateCold(criu_config="/c", reason="none")


class Desk:
    """Notes which creates are decided, and answers each once it was asked for."""

    def __init__(self, folder: Path) -> None:
        (folder / "bundle").mkdir()
        config = {"process": {"env": ["CEDANA_CHECKPOINT=first", "CEDANA_CHECKPOINT=job"]}}
        (folder / "bundle" / "config.json").write_text(json.dumps(config))
        self.ask = CreateRequest(C1, str(folder / "bundle"), str(folder / "runc"), "job")
        self.begun: list[CreateRequest] = []
        self.forgotten: list[ContainerId] = []
        self.is_known = False
        self.ahead = SpeculativeCreates(self._create, known=lambda _: self.is_known, forget=self._forget)

    async def _create(self, ask: CreateRequest, asked: asyncio.Event) -> LocalAnswer:
        self.begun.append(ask)
        await asked.wait()
        return COLD

    async def _forget(self, container_id: ContainerId) -> None:
        self.forgotten.append(container_id)

    def announce(self, variable: str = "CEDANA_CHECKPOINT") -> None:
        self.ahead.expect(C1, f"{self.ask.runc_root}/", f"{self.ask.bundle}/../bundle", variable)

    async def settle(self) -> None:
        await asyncio.sleep(0.1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_an_announced_create_is_begun_before_it_asks_and_answered_when_it_does(desk: Desk) -> None:
    desk.announce()
    await desk.settle()
    assert desk.begun == [desk.ask]
    assert await desk.ahead.create(desk.ask) == COLD
    assert desk.begun == [desk.ask]


async def test_a_create_that_asks_before_its_announcement_was_taken_in_is_decided_once(desk: Desk) -> None:
    desk.announce()
    assert await desk.ahead.create(desk.ask) == COLD
    await desk.settle()
    assert desk.begun == [desk.ask]


async def test_an_announcement_that_comes_late_or_again_changes_nothing(desk: Desk) -> None:
    desk.announce()
    desk.announce()
    await desk.settle()
    answer = asyncio.create_task(desk.ahead.create(desk.ask))
    await asyncio.sleep(0)
    desk.announce()
    assert await answer == COLD
    desk.is_known = True
    desk.announce()
    await desk.settle()
    assert desk.begun == [desk.ask]


async def test_a_create_that_asks_something_else_than_was_announced_gets_its_own_answer(desk: Desk) -> None:
    desk.announce()
    await desk.settle()
    other = CreateRequest(C1, desk.ask.bundle, "/elsewhere", "job")
    assert await desk.ahead.create(other) == COLD
    assert desk.begun == [desk.ask, other]


async def test_what_the_runtime_will_leave_to_runc_is_not_begun(desk: Desk) -> None:
    desk.announce("NO_SUCH_VARIABLE")
    await desk.settle()
    (Path(desk.ask.runc_root) / C1).mkdir(parents=True)
    desk.announce()
    await desk.settle()
    assert desk.begun == []


async def test_a_create_that_never_asks_is_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative_create, "_ASK_SECONDS", 0.05)
    desk.announce()
    await desk.settle()
    await desk.settle()
    assert desk.begun == [desk.ask]
    assert desk.forgotten == [C1]


async def test_closing_ends_what_was_only_announced(desk: Desk) -> None:
    desk.announce()
    await desk.settle()
    await desk.ahead.close()
    assert desk.forgotten == []
