"""What `forget` makes of the answers while the nodes delete: others may want the same at the same time."""

from __future__ import annotations

from collections.abc import Iterator

import nats.errors
import pytest
import typer

from woodfrog import client
from woodfrog.cli import forget_command
from woodfrog.cli.context import Reach
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import ForgetRequest, Forgetting

pytestmark = pytest.mark.timeout(30)

UNKNOWN = Failure("unknown-id", "Nothing is known of local/default/old", "`woodfrog get ids` lists the ids.")


def answering(monkeypatch: pytest.MonkeyPatch, *answers: int | Failure) -> None:
    left: Iterator[int | Failure] = iter(answers)

    def forget(_reach: Reach, request: ForgetRequest) -> Forgetting:
        answer = next(left)
        if isinstance(answer, Failure):
            raise FailureError(answer)
        return Forgetting(request.key, answer)

    monkeypatch.setattr(forget_command, "reach_of", lambda _: Reach("nats://nowhere", "local"))
    monkeypatch.setattr(forget_command, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(forget_command.client, "forget", forget)


@pytest.mark.parametrize("last", [0, UNKNOWN], ids=["by this one", "by another that wanted the same"])
def test_an_id_that_is_known_no_more_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: int | Failure
) -> None:
    answering(monkeypatch, 2, 1, last)
    forget_command.forget("old", force=True)
    assert capsys.readouterr().out == "old is forgotten, 2 snapshots deleted: its next start is that of a new id\n"


def test_one_that_was_never_known_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, UNKNOWN)
    with pytest.raises(typer.Exit) as ended:
        forget_command.forget("old", force=True)
    assert ended.value.exit_code == 1
    assert "(unknown-id)" in capsys.readouterr().err


def test_whoever_starts_it_meanwhile_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, 2, Failure("id-in-use", "A container of local/default/old runs on node a", "Stop it."))
    with pytest.raises(typer.Exit):
        forget_command.forget("old", force=True)
    assert "(id-in-use)" in capsys.readouterr().err


def test_a_request_that_no_broker_carries_is_not_a_control_plane_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broker:
        async def request(self, *_: object, **__: object) -> None:
            raise nats.errors.MaxPayloadError

        async def close(self) -> None:
            pass

    async def connect(*_: object, **__: object) -> Broker:
        return Broker()

    monkeypatch.setattr(client, "connect", connect)
    with pytest.raises(FailureError) as refused:
        client.forget(Reach("nats://nowhere", "local"), ForgetRequest(CheckpointKey("local", "default", "old")))
    assert refused.value.failure.code == "malformed-request"
