"""For every cold start and every failure that chaos runs left, a person finds the reason on the page with two clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect
from support.api import ACTING
from support.reasons import Case, cases, recorded

from woodfrog.protocol.ids import CheckpointKey

pytestmark = pytest.mark.timeout(600)

SHOTS = Path(__file__).parents[2] / "build/page-shots/docs"
"""`make page-images` copies them to the page of docs that shows them."""
SHOWN = CheckpointKey("local", "default", "machine-seed-33-chaos-05-threads")
"""Its dumps failed while the disk was full, and its containers resumed from what was stored before."""


class Clicks:
    """What somebody does on the page, from its first sight on."""

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        self._url = url
        self.count = 0

    async def begin(self) -> None:
        """See what is seen first."""
        await self._page.goto(f"{self._url}/#/overview")
        await self._page.locator("nav a[aria-current]", has_text="Overview").wait_for()
        self.count = 0

    async def follow(self, link: str) -> None:
        await self._page.get_by_role("link", name=link, exact=True).first.click()
        self.count += 1


async def finds(place: Locator, case: Case) -> None:
    """See that something shows the reason, and what to do."""
    for words in (*case.said, case.advice):
        await expect(place).to_contain_text(words.rstrip("."))


async def test_the_life_of_its_id_shows_each_with_its_reason_by_two_clicks(shown: Any) -> None:
    head = await shown.log.head()
    events = recorded()
    await shown.log.append(events, epoch=shown.epoch)
    wanted = list(cases(events, head + 1))
    page = await shown.page("/overview")
    clicks = Clicks(page, shown.api.url)
    for key in sorted({case.key for case in wanted}, key=str):
        await clicks.begin()
        await clicks.follow("Ids")
        await clicks.follow(key.id)
        await expect(page.get_by_role("heading", level=1)).to_contain_text(key.id)
        for case in wanted:
            if case.key == key:
                await finds(page.locator(f'ol.events li[data-position="{case.position}"]'), case)
        assert clicks.count == 2
    assert page.wrong == []


async def test_what_docs_show_is_what_people_see(shown: Any) -> None:
    """Pictures of the pages over a chaos run, by somebody who may act."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    await shown.log.append(recorded(), epoch=shown.epoch)
    page = await shown.page("/overview", token=ACTING)
    life = f"/ids/{SHOWN.namespace}/{SHOWN.id}"
    for name, path, sign in (
        ("page-overview", "/overview", "main .card"),
        ("page-life", life, "canvas"),
        ("page-failures", "/failures", "main td"),
    ):
        await page.goto(f"{shown.api.url}/#{path}")
        await page.locator(sign).first.wait_for()
        if name == "page-life":
            await expect(page.get_by_role("region", name="What would be chosen")).to_contain_text("localhost")
        await page.screenshot(path=SHOTS / f"{name}.png")
        if name == "page-life":
            failed = page.locator("ol.events li.is-bad", has_text="snapshot.dump-failed").first
            await failed.locator("xpath=ancestor::section").screenshot(path=SHOTS / "page-timeline.png")
    assert page.wrong == []


async def test_the_list_of_failures_shows_the_newest_of_each_cause_by_one_click_and_its_others_by_two(
    shown: Any,
) -> None:
    events = recorded()
    await shown.log.append(events, epoch=shown.epoch)
    failed = [case for case in cases(events) if case.what in {"snapshot.dump-failed", "incarnation.restore-failed"}]
    page = await shown.page("/overview")
    clicks = Clicks(page, shown.api.url)
    for code in sorted({case.said[1] for case in failed}):
        await clicks.begin()
        await clicks.follow("Failures")
        await expect(page.get_by_role("region", name="Causes")).to_contain_text(code)
        await page.get_by_role("region", name="Causes").get_by_role("link", name=code, exact=True).click()
        clicks.count += 1
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"Failures: {code}")
        for case in failed:
            if case.said[1] == code:
                row = page.get_by_role("region", name="Failures", exact=True).locator("tr", has_text=case.key.id)
                await finds(row.filter(has_text=case.said[0]).first, case)
        assert clicks.count == 2
    assert page.wrong == []
