"""For every cold start and every failure of a chaos run, a person finds the reason: with one command, and with two clicks on the page.

The log is one that ``make chaos`` left. Another one is looked at by naming it in WOODFROG_CHAOS_LOG.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chaos import recording
from playwright.async_api import Page

from woodfrog.protocol.events import AnyEvent, ColdStartChosen, event_type
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey

pytestmark = pytest.mark.timeout(600)

SHOTS = Path(__file__).parents[2] / "build/page-shots"
RECORDED = Path(os.environ.get("WOODFROG_CHAOS_LOG") or Path(__file__).with_name("chaos-run.jsonl"))


class Case(NamedTuple):
    """Something of which a person wants to know the reason."""

    key: CheckpointKey
    position: int
    what: str
    said: tuple[str, ...]
    """What has to be found."""


def failure_of(event: AnyEvent) -> Failure | None:
    found = getattr(event, "failure", None)
    return found if isinstance(found, Failure) else None


def cases(log: list[tuple[AnyEvent, datetime]]) -> Iterator[Case]:
    for position, (event, _) in enumerate(log, 1):
        key, failure = getattr(event, "key", None), failure_of(event)
        if key is None:
            continue
        if isinstance(event, ColdStartChosen):
            yield Case(key, position, event_type(event), (event.reason,))
        elif failure is not None:
            yield Case(key, position, event_type(event), (failure.cause, failure.advice))


@pytest.fixture(scope="module")
def log() -> list[tuple[AnyEvent, datetime]]:
    return list(recording.read(RECORDED))


@pytest.fixture
async def shown_run(shown: Any, log: list[tuple[AnyEvent, datetime]]) -> Any:
    """The run as if it had ended a minute ago, in a log of its own."""
    return shown


class Person:
    """Looks at the page and clicks; counts the clicks."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.clicks = 0

    async def click(self, name: str) -> None:
        await self.page.get_by_role("link", name=name, exact=True).first.click()
        self.clicks += 1
