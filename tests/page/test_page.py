"""Each page, as somebody sees and uses it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Route, expect
from support.api import ACTING, DEFAULT
from support.logstory import KEY, NODE_A, NODE_B, opened

from controlplane.log import Metadata, NewEvent
from woodfrog.protocol.events import (
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    IncarnationOpened,
    PodTerminating,
    SnapshotImported,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId
from woodfrog.protocol.node_status import DiskSpace, NodeStatus, SelfTest, Work

pytestmark = pytest.mark.timeout(120)

SHOTS = Path(__file__).parents[2] / "build/page-shots"
LIFE = f"/ids/{KEY.namespace}/{KEY.id}"
PAGES = {
    "overview": "/overview",
    "ids": "/ids",
    "life": LIFE,
    "nodes": "/nodes",
    "failures": "/failures",
    "log": "/log",
}


async def seen(shown: Any, name: str, **how: Any) -> Page:
    """Open a page and wait until it shows what it has to show."""
    page: Page = await shown.page(PAGES[name], **how)
    await ready(page, name)
    return page


async def ready(page: Page, name: str) -> None:
    """Wait until a page shows its rows, and what it draws."""
    await page.locator("nav a[aria-current]", has_text="Ids" if name == "life" else name.capitalize()).wait_for()
    await page.wait_for_selector("canvas" if name == "life" else "main .card, main td, main ol.events li")


async def serious(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    found = await Axe().run(page)
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found.response["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


async def cut_off(page: Page) -> list[str]:
    """The tables that cannot be seen whole without scrolling sideways."""
    found: list[str] = await page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.ariaLabel)"
    )
    return found


async def test_every_page_is_readable_wide_and_narrow_light_and_dark(shown: Any) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = await seen(shown, "overview")
    for name, path in PAGES.items():
        await page.goto(f"{shown.api.url}/#{path}")
        await ready(page, name)
        for scheme, width in (("light", 1280), ("dark", 390)):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.emulate_media(color_scheme=scheme)
            assert await serious(page) == [], name
            overflow = await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, f"{name} is {overflow} pixels too wide at {width}"
            assert width < 1280 or await cut_off(page) == [], name
            await page.screenshot(path=SHOTS / f"{name}-{scheme}-{width}.png")
    assert page.wrong == []


async def test_an_id_is_found_and_its_life_told(shown: Any) -> None:
    page = await seen(shown, "ids")
    await page.get_by_label("Id contains").fill("rain-7")
    await page.get_by_role("button", name="Show").click()
    await page.get_by_role("link", name=KEY.id).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(KEY.id)
    choices = page.get_by_role("region", name="What would be chosen")
    await expect(choices).to_contain_text("node-a")
    failed = page.locator("ol.events li.is-bad").filter(has_text="disk-full").first
    await expect(failed).to_contain_text("Free space.")
    slider = page.get_by_role("slider")
    events = await page.locator("ol.events li").count()
    await slider.focus()
    await page.keyboard.press("Home")
    await expect(page.locator("ol.events li")).to_have_count(1)
    await expect(choices).to_contain_text("cold")
    await expect(choices).not_to_contain_text("restore")
    await page.keyboard.press("End")
    await expect(page.locator("ol.events li")).to_have_count(events)
    assert page.wrong == []


async def test_the_log_is_followed_paused_and_looked_through(shown: Any) -> None:
    page = await seen(shown, "log")
    await expect(page.get_by_role("status").first).to_have_text("live")
    await shown.log.append([opened("fresh-one")], epoch=shown.epoch)
    first = page.locator("ol.events li").first
    await expect(first).to_contain_text("fresh-one")
    await page.get_by_role("button", name="Pause").click()
    await shown.log.append([opened("fresh-two")], epoch=shown.epoch)
    await expect(page.get_by_text("paused, 1 new")).to_be_visible()
    await expect(first).to_contain_text("fresh-one")
    await page.get_by_role("button", name="Pause").click()
    await expect(first).to_contain_text("fresh-two")
    await page.get_by_label("Position").fill("5")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("ol.events li")).to_have_count(5)
    await expect(page.locator("ol.events li").first).to_have_attribute("data-position", "5")
    await page.get_by_label("Type").select_option("node.registered")
    await page.get_by_label("Position").fill("")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("ol.events li")).to_have_count(2)
    assert page.wrong == []


async def test_an_id_that_is_known_by_an_import_alone_is_listed_and_its_life_told(shown: Any) -> None:
    key = CheckpointKey("local", "brought", "from-elsewhere")
    imported = SnapshotImported(
        key=key, incarnation=IncarnationNumber(1), snapshot_id=SnapshotId("20261123T210000Z-0000000f"),
        origin="far/default/train/20261120T000000Z-00000001", manifest_digest="ab" * 32, raw_bytes=1, stored_bytes=2048,
        taken_at=datetime.now(UTC), taken_on=NodeFacts(), taken_from=ContainerFacts(image="train:1"),
    )  # fmt: skip
    event = NewEvent(uuid4(), imported, Metadata("user/me", "import"), datetime.now(UTC))
    await shown.log.append([event], epoch=shown.epoch)
    page = await seen(shown, "ids")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=key.id))
    await expect(row).to_contain_text("ended")
    await expect(row).to_contain_text("2.0 KiB")
    await expect(page.get_by_label("Namespace").get_by_role("option", name=key.namespace)).to_have_count(1)
    await page.get_by_role("link", name=key.id).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(key.id)
    await expect(page.locator("main")).to_contain_text(
        "No container of it was started here: its snapshot was imported."
    )
    await expect(page.get_by_role("region", name="What would be chosen")).to_contain_text("20261123T210000Z-0000000f")
    await expect(page.locator("ol.events li")).to_contain_text("was imported")
    assert page.wrong == []


async def test_nodes_show_their_self_test_their_disk_and_what_their_workers_do(shown: Any) -> None:
    since = datetime.now(UTC)
    failure = Failure("criu-crashed", "CRIU 4.1 died of SIGSEGV", "Try another CRIU.")
    busy = NodeStatus(
        self_test=SelfTest(since),
        disk=DiskSpace(total_bytes=100 << 30, free_bytes=3 << 30, reserved_bytes=1 << 30, waiting_captures=2, waiting_bytes=7 << 20),
        work=(Work("store", KEY, since, "waits: the store does not answer"), Work("dump", KEY, since)),
        more_work=4,
    )  # fmt: skip
    shown.api.hear(NODE_A, busy, "worker-a")
    shown.api.hear("sick", NodeStatus(self_test=SelfTest(since, "dump", failure)))
    shown.api.hear(NODE_B, None, "worker-b")
    page = await seen(shown, "nodes")
    rows = page.get_by_role("region", name="Nodes").get_by_role("row")
    a, sick, b = (rows.filter(has=page.get_by_role("link", name=name, exact=True)) for name in (NODE_A, "sick", NODE_B))
    for text in (
        "its disk is nearly full: 3.0 GiB free", "its store does not take 2 captures", "passed", "3.0 GiB free of 100.0 GiB",
        "1.0 GiB of it reserved", "7.0 MiB wait for the store", "waits: the store does not answer", "and 4 more",
    ):  # fmt: skip
        await expect(a).to_contain_text(text)
    for text in (
        "unregistered", "its self-test failed", "at the step dump: CRIU 4.1 died of SIGSEGV (criu-crashed)", "→ Try another CRIU.",
    ):  # fmt: skip
        await expect(sick).to_contain_text(text)
    await expect(b).not_to_contain_text("free of")  # its worker is of before, and says nothing of itself
    SHOTS.mkdir(parents=True, exist_ok=True)
    for scheme, width in (("light", 1280), ("dark", 390)):
        await page.set_viewport_size({"width": width, "height": 800})
        await page.emulate_media(color_scheme=scheme)
        assert await serious(page) == []
        await page.screenshot(path=SHOTS / f"nodes-busy-{scheme}-{width}.png", full_page=True)
    await page.set_viewport_size({"width": 1280, "height": 720})
    await page.emulate_media(color_scheme="light")
    assert await cut_off(page) == []
    await page.screenshot(path=SHOTS / "docs/page-nodes.png")
    await a.get_by_role("link", name=KEY.id).first.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(KEY.id)
    assert page.wrong == []


async def test_many_nodes_are_shown_page_by_page(shown: Any) -> None:
    for number in range(150):
        shown.api.hear(f"many-{number:03}", None)
    page = await seen(shown, "nodes")
    await expect(page.get_by_role("link", name="many-099", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Next page").click()
    await expect(page.get_by_role("link", name="many-149", exact=True)).to_be_visible()
    await expect(page.get_by_role("link", name="many-099", exact=True)).to_have_count(0)
    await page.get_by_role("button", name="First page").click()
    await expect(page.get_by_role("link", name="many-000", exact=True)).to_be_visible()
    assert page.wrong == []


async def test_everything_is_reached_by_keyboard(shown: Any) -> None:
    page = await seen(shown, "overview")
    await page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(25):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Skip to content", "Overview", "Ids", "Nodes", "Failures", "Log", "Sign out", "Theme", "running"} <= reached
    await page.get_by_role("link", name="Nodes").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


async def test_a_page_that_is_renewed_leaves_the_keyboard_and_tables_where_they_were(shown: Any) -> None:
    page = await seen(shown, "overview")
    kept = await page.evaluate(
        """async () => {
            const { h, renew } = await import('/page/dom.js');
            const place = document.querySelector('main');
            const wide = (text) => h('div', { className: 'scroll', tabIndex: 0 }, h('div', { id: 'wide' }, text, h('a', { href: '#/x' }, 'x')));
            renew(place, wide('word'.repeat(900)));
            place.querySelector('a').focus();
            place.firstChild.scrollLeft = 70;
            renew(place, h('a', { href: '#/new' }, 'new'), wide('word'.repeat(900)));
            return [document.activeElement.textContent, place.querySelector('.scroll').scrollLeft];
        }"""
    )
    assert kept == ["x", 70]


async def test_what_could_not_be_shown_is_shown_as_soon_as_it_can_be(shown: Any) -> None:
    page = await seen(shown, "log")
    refused: list[str] = []

    async def busy(route: Route) -> None:
        """Answer each question once with something else than an answer."""
        path = route.request.url.split("?")[0]
        if path in refused:
            await route.continue_()
            return
        refused.append(path)
        if len(refused) % 2:
            await route.fulfill(status=503, json={"code": "api-busy", "cause": "it is slow", "advice": "Ask again."})
        else:
            await route.abort()

    await page.route("**/api/v1/**", busy)
    await page.reload()  # who asks is asked first, and refused
    await page.wait_for_selector("main ol.events li")
    for name in ("overview", "life"):
        await page.goto(f"{shown.api.url}/#{PAGES[name]}")
        await expect(page.locator("#news")).to_contain_text(re.compile("it is slow|the API does not answer"))
        await ready(page, name)
        await expect(page.locator("#news")).to_be_empty()


async def test_a_viewer_of_one_namespace_is_told_what_is_not_theirs(shown: Any) -> None:
    page = await shown.page("/nodes", token=DEFAULT)
    await expect(page.locator("main")).to_contain_text("shown to those who see every namespace")
    await page.goto(f"{shown.api.url}/#/ids")
    await expect(page.get_by_role("link", name=KEY.id)).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Token")).to_be_focused()
    assert await page.evaluate("sessionStorage.length") == 0
    await page.get_by_label("Token").fill("w" * 32)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("the token is unknown or has expired")


async def test_a_snapshot_is_pinned_and_deleted_by_whoever_may_and_by_keyboard_alone(shown: Any) -> None:
    page = await shown.page(LIFE)
    await ready(page, "life")
    await expect(page.get_by_role("button", name="Pin")).to_have_count(0)
    page = await shown.page(LIFE, token=ACTING)
    await ready(page, "life")
    (name,) = [row["snapshot_id"] for row in await shown.log.query("latest_snapshots")]
    pin = page.get_by_role("button", name=f"Pin {name}")
    await pin.focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Pin: {name}")
    await expect(dialog).to_contain_text("every start resumes from it")
    assert await serious(page) == []
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(pin).to_be_focused()
    await page.keyboard.press("Enter")
    await dialog.get_by_label("Because").fill("known to be good")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text(f"Pin: recorded for {name}")).to_be_visible()
    await expect(page.locator("ol.events li").last).to_contain_text("known to be good by actor")
    await page.get_by_role("button", name=f"Unpin {name}").click()
    await page.get_by_role("dialog").get_by_role("button", name="Unpin").click()
    await page.get_by_role("button", name=f"Delete {name}").click()
    await expect(page.get_by_role("dialog")).to_contain_text("nothing brings it back")
    await page.screenshot(path=SHOTS / "life-delete.png")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("dialog")).to_be_visible()  # it is the latest one: that has to be said
    await page.get_by_role("checkbox").check()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text(f"Delete: recorded for {name}")).to_be_visible()
    await expect(page.get_by_role("button", name=f"Delete {name}")).to_be_visible()
    last = (await shown.log.history(KEY))[-1]
    assert (last["type"], last["metadata"]["actor"]) == ("snapshot.expired", "user/actor")
    assert page.wrong == []


async def test_an_id_is_forgotten_and_is_then_listed_only_by_its_state(shown: Any) -> None:
    of = {"key": CheckpointKey("local", "default", "not-needed"), "incarnation": IncarnationNumber(1)}
    ended = ContainerEnded(**of, node=NODE_A, container_id=ContainerId("not-needed-1"), exit_code=0)
    await shown.log.append(
        [opened("not-needed"), NewEvent(uuid4(), ended, Metadata("test", "test"), datetime.now(UTC))], epoch=shown.epoch
    )
    page = await shown.page("/ids/default/not-needed", token=ACTING)
    await page.get_by_role("button", name="Forget not-needed").click()
    await page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    await expect(page.get_by_text("not-needed is forgotten")).to_be_visible()
    await page.goto(f"{shown.api.url}/#/ids")
    await expect(page.get_by_role("link", name=KEY.id)).to_be_visible()
    await expect(page.get_by_role("link", name="not-needed")).to_have_count(0)
    await page.get_by_label("State").select_option("forgotten")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_role("link", name="not-needed")).to_be_visible()
    await expect(page.get_by_role("link", name=KEY.id)).to_have_count(0)
    assert page.wrong == []


HOSTILE = '<img src=x onerror="document.title=1"><script>window.pwned=1</script>"\'>&amp;{{7*7}}\u202e${1}'


async def test_hostile_text_is_shown_as_text(shown: Any) -> None:
    """Ids are bound to letters, digits, dots, underscores and dashes; everything else in an event is what a node or a pod wrote."""
    key = CheckpointKey("local", "default", "-".join(["a" * 60] * 4) + ".__proto")
    of = {"key": key, "incarnation": IncarnationNumber(1)}
    failure = Failure("disk-full", f"cause {HOSTILE}", f"advice {HOSTILE}")
    events = [
        IncarnationOpened(**of, node=NODE_A, container_id=ContainerId("c"), container=ContainerFacts(image=HOSTILE)),
        ContainerStarted(**of, node=NODE_A, container_id=ContainerId("c"), warnings=(HOSTILE,)),
        PodTerminating(**of, pod=HOSTILE, uid=HOSTILE, why="deleted", by=HOSTILE),
        DumpFailed(
            **of,
            snapshot_id=SnapshotId("20261123T210000Z-0000000f"),
            node=NODE_A,
            stage=DumpStage.CAPTURE,
            failure=failure,
        ),
    ]
    at = datetime.now(UTC)
    await shown.log.append(
        [NewEvent(uuid4(), event, Metadata(HOSTILE, HOSTILE), at) for event in events],
        epoch=shown.epoch,
    )
    worked = NodeStatus(self_test=SelfTest(at, HOSTILE, failure), work=(Work(HOSTILE, key, at, HOSTILE),))
    shown.api.hear(NODE_A, worked)
    page = await shown.page("/overview", width=390)
    life = f"/ids/default/{key.id}"
    for path, word in (
        ("/overview", "dumps"),
        ("/ids", key.id),
        (life, "Timeline"),
        ("/failures", "disk-full"),
        ("/log", key.id),
        ("/nodes", key.id),
    ):
        await page.goto(f"{shown.api.url}/#{path}")
        await page.get_by_text(word).first.wait_for()
        assert await page.evaluate("[window.pwned, document.querySelectorAll('main img, main script').length]") == [
            None,
            0,
        ]
        assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        if path in {life, "/failures", "/log", "/nodes"}:
            await page.get_by_text('<img src=x onerror="document.title=1">').first.wait_for()
    assert page.wrong == []


async def test_the_policy_of_the_page_lets_nothing_else_run(shown: Any) -> None:
    page = await seen(shown, "overview")
    ran = await page.evaluate(
        """async () => {
            const tried = document.createElement('script');
            try { tried.textContent = 'window.ran = 1'; document.head.append(tried); } catch { }
            try { document.body.innerHTML = '<b>x</b>'; } catch { }
            let reached = false;
            try { await fetch('http://127.0.0.2:9/'); reached = true; } catch { }
            return [window.ran ?? null, document.querySelectorAll('b').length, reached];
        }"""
    )
    assert ran == [None, 0, False]
