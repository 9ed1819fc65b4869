"""What a log line says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from nats.js.errors import ServerError

from woodfrog.service import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            ServerError(code=500, err_code=10052, description="no"),
            "ServerError: nats: ServerError: code=500 err_code=10052 description='no'",
        ),
        (TimeoutError(), "TimeoutError"),
        (KeyError("id"), "KeyError: 'id'"),
    ],
)
def test_an_error_is_told_with_its_kind_and_its_words(
    problem: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    structlog.get_logger(component="x").warning("it failed", error=problem)
    line = json.loads(capsys.readouterr().err)
    assert (line["msg"], line["error"]) == ("it failed", said)


def test_a_traceback_says_where_and_never_what_variables_held(capsys: pytest.CaptureFixture[str]) -> None:
    def connect(_url: str) -> None:
        raise ConnectionError("nobody is there")

    logs.configure()
    try:
        connect("postgresql://owner:secret@db/woodfrog")
    except ConnectionError:
        structlog.get_logger(component="x").exception("it died")
    text = capsys.readouterr().err
    (told,) = json.loads(text)["exception"]
    assert told["exc_value"] == "nobody is there"
    assert [frame["name"] for frame in told["frames"]][-1] == "connect"
    assert "secret" not in text
