"""A node on which no worker begins, since its self-test fails, is heard of all the same, once, by whoever listens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats.aio.client import Client

from nodeworker.host import self_test_report
from nodeworker.settings import from_environment
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.node_status import SelfTest
from woodfrog.protocol.reports import Heartbeat

pytestmark = [pytest.mark.nats, pytest.mark.timeout(40)]

NODE = NodeName("node.with.dots")
FAILED = SelfTest(
    datetime(2026, 11, 23, 12, tzinfo=UTC), "dump", Failure("criu-failed", "CRIU gave up", "Try another CRIU.")
)


async def test_what_failed_is_told_in_one_sign_of_life(client: Client, nats_url: str, tmp_path: Path) -> None:
    heard = await client.subscribe(subjects.heartbeats(NODE))
    await client.flush()
    settings = replace(from_environment({"WOODFROG_STATE_DIR": str(tmp_path)}), node=NODE, nats_url=nats_url)
    await self_test_report.tell(settings, FAILED)
    said: Heartbeat = wire.decode((await heard.next_msg(10)).data, Heartbeat)
    assert said.status is not None
    assert (said.node, said.status.self_test) == (NODE, FAILED)


async def test_a_broker_that_is_away_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_test_report, "_TELL_SECONDS", 0.5)
    settings = replace(from_environment({"WOODFROG_STATE_DIR": str(tmp_path)}), nats_url="nats://127.0.0.1:1")
    await self_test_report.tell(settings, FAILED)
    assert "could not be reported" in "".join(capfd.readouterr())
