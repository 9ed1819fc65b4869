"""What a log line says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from nats.js.errors import ServerError

from process import logs


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
