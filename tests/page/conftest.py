"""The page in Debian's Chromium, over a real log and the real API. One browser and one log serve a whole file of tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, TimeoutError, async_playwright  # noqa: A004 - Playwright's own
from support.api import EVERYTHING, Deciding, Served, served
from support.databases import SqliteFile
from support.logstory import START, story

from controlplane.log import EventLog, NewEvent
from controlplane.log.admin.migrate import upgrade
from woodfrog.protocol.ids import Epoch


class Shown(NamedTuple):
    """A log, the API over it, and a browser."""

    log: EventLog
    epoch: Epoch
    api: Served
    browser: Browser

    async def page(
        self, path: str = "/overview", *, dark: bool = False, width: int = 1280, token: str = EVERYTHING
    ) -> Page:
        """Open the page, signed in. What goes wrong in it it is in ``page.wrong``."""
        context = await self.browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        page = await context.new_page()
        page.wrong = []  # type: ignore[attr-defined]
        page.on("pageerror", lambda problem: page.wrong.append(str(problem)))  # type: ignore[attr-defined]
        page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)  # type: ignore[attr-defined]
        try:
            await page.goto(f"{self.api.url}/#token={token}")
            await page.wait_for_selector("nav:not([hidden])")
            await page.goto(f"{self.api.url}/#{path}")
            await page.wait_for_selector("h1")
        except TimeoutError as problem:
            shows = await page.inner_text("body")
            raise AssertionError(f"the page is not shown, but: {shows!r}; {page.wrong}") from problem  # type: ignore[attr-defined]
        return page


def recent(events: list[NewEvent], hours: float = 0.1) -> list[NewEvent]:
    """The same events, as if they had happened just now."""
    shift = datetime.now(UTC) - timedelta(hours=hours) - START
    return [NewEvent(uuid4(), each.event, each.metadata, each.occurred_at + shift) for each in events]


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium")
    assert found is not None, "`make page-test` installs Debian's package chromium"
    return found


@pytest.fixture
async def shown(tmp_path: Path, chromium: str) -> AsyncIterator[Shown]:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    await log.append(recent(story()), epoch=epoch)
    asks = Deciding(log, epoch)
    async with served(log, url, tmp_path, asks=asks) as api, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield Shown(log, epoch, api, browser)
        await browser.close()
    await log.close()
