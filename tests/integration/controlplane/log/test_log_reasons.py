"""For every cold start and every failure that chaos runs left, one command shows the reason, and what to do where something helps."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from support.cli import woodfrog
from support.databases import SqliteFile, in_thread
from support.logstory import story
from support.reasons import Case, cases, recorded

from controlplane.log import EventLog, NewEvent
from controlplane.log.admin.migrate import upgrade
from woodfrog.cli import why_command
from woodfrog.dev_state import Reach
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import EventFilter

pytestmark = pytest.mark.timeout(120)

Row = dict[str, Any]


async def fill(url: str, events: list[NewEvent]) -> None:
    await upgrade(url)
    log = await EventLog.open(url)
    await log.append(events, epoch=await log.take_lead())
    await log.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Row], list[Case]]:
    """The database, its rows, and what there is to be explained."""
    url = SqliteFile(tmp_path_factory.mktemp("chaos") / "log.db").url
    events = [*story(), *recorded()]
    in_thread(fill(url, events))
    lines = woodfrog("log", "export", "--database-url", url).stdout.splitlines()
    return url, [json.loads(line) for line in lines], list(cases(events))


def test_the_recorded_runs_have_something_of_everything(run: tuple[str, list[Row], list[Case]]) -> None:
    kinds = Counter(case.what for case in run[2])
    assert {
        "incarnation.cold-start-chosen",
        "incarnation.restore-failed",
        "snapshot.dump-failed",
        "snapshot.store-delayed",
    } <= {*kinds}
    assert kinds.total() > 30


def test_why_shows_it_when_it_has_happened(
    run: tuple[str, list[Row], list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows, wanted = run
    upto = 0

    def view(_reach: Reach, _view: str, key: CheckpointKey) -> list[Row]:
        return [row for row in rows[:upto] if row["stream"] == f"checkpoint/{key}"]

    def events(_reach: Reach, only: EventFilter, *, limit: int) -> list[Row]:
        return [row for row in rows[:upto] if row["stream"] == f"node/{only.node}"][-limit:]

    monkeypatch.setattr(why_command, "reach_of", lambda _: Reach("nats://nowhere", "local"))
    monkeypatch.setattr(why_command.client, "view", view)
    monkeypatch.setattr(why_command.client, "events", events)
    for case in wanted:
        upto = case.position
        done = woodfrog("why", case.key.id, "-n", case.key.namespace)
        assert done.exit_code == 0, done.output
        for words in (*case.said, case.advice):
            assert words.rstrip(".") in done.stdout, (case, done.stdout)
        assert "A start on node " in done.stdout, (case, done.stdout)


def test_history_shows_all_of_it_later(run: tuple[str, list[Row], list[Case]]) -> None:
    url, _, wanted = run
    for key in {case.key for case in wanted}:
        done = woodfrog("history", key.id, "-n", key.namespace, "--database-url", url)
        assert done.exit_code == 0, done.output
        lines = {int(line.split()[0]): line for line in done.stdout.splitlines()[1:]}
        for case in wanted:
            if case.key == key:
                for words in (*case.said, case.advice):
                    assert words.rstrip(".") in lines[case.position], case
