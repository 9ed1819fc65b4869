"""What ``get`` makes of the log's rows: ids with their newest snapshot, one namespace or all, and what has changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import woodfrog

from controlplane.log.projections.views import CONTRACT
from woodfrog.cli import get_commands, watch
from woodfrog.cli.context import Reach
from woodfrog.cli.id_rows import age, joined
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import EventFilter, View

pytestmark = pytest.mark.timeout(30)

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def start(name: str, number: int, namespace: str = "default", **changes: Any) -> dict[str, Any]:
    row = {"cluster": "local", "namespace": namespace, "id": name, "incarnation": number, "node": f"n{number}"}
    times = {"started_at": "2026-11-30T11:00:00Z", "ended_at": None, "choice": "cold", "waited_for": None}
    return {**row, **times, "container_id": f"c{number}", "exit_code": None, **changes}


def snapshot(name: str, namespace: str = "default") -> dict[str, Any]:
    captured = {
        "snapshot_id": f"s-{name}",
        "captured_at": "2026-11-30T11:53:00Z",
        "raw_bytes": 4096,
        "stored_bytes": 2048,
    }
    return {"cluster": "local", "namespace": namespace, "id": name, **captured, "pinned": 0}


STARTS = [
    start("count", 1, ended_at="2026-11-30T11:01:00Z", exit_code=137),
    start("train", 1, "team"),
    start("count", 2),
    start("held", 1, started_at=None, choice=None, waited_for="its predecessor"),
    start("new", 1, started_at=None),
]
LATEST = [snapshot("count"), snapshot("archived")]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> None:
    def view(_reach: Reach, name: View, key: CheckpointKey | None, *, limit: int) -> list[dict[str, Any]]:
        rows = {"restore_history": STARTS, "latest_snapshots": LATEST}.get(name, [snapshot("a"), snapshot("b", "team")])
        return [row for row in rows if key is None or (row["namespace"], row["id"]) == (key.namespace, key.id)][-limit:]

    def of_namespace(reach: Reach, name: View, namespace: str, *, limit: int) -> list[dict[str, Any]]:
        return [row for row in view(reach, name, None, limit=10_000) if row["namespace"] == namespace][-limit:]

    monkeypatch.setattr(get_commands, "reach_of", lambda _: Reach("nats://nowhere", "local"))
    monkeypatch.setattr(get_commands.client, "view", view)
    monkeypatch.setattr(get_commands.client, "of_namespace", of_namespace)


def test_an_id_is_what_its_newest_container_is_and_what_the_next_one_resumes_from() -> None:
    rows = {row["id"]: row for row in joined(STARTS, LATEST)}
    assert list(rows) == ["archived", "count", "held", "new", "train"]
    assert {name: row["state"] for name, row in rows.items()} == {
        "archived": "ended",
        "count": "running",
        "held": "waiting",
        "new": "starting",
        "train": "running",
    }
    assert (rows["count"]["node"], rows["count"]["snapshot_id"]) == ("n2", "s-count")
    assert "snapshot_id" not in rows["train"]


def test_a_start_that_came_to_nothing_hides_no_container_that_runs() -> None:
    gone = {"started_at": None, "ended_at": "2026-11-30T11:02:00Z"}
    starts = [start("count", 1), start("count", 2, **gone), start("never", 1, **gone), start("old", 1, **gone)]
    starts += [start("old", 2, **gone, forgotten_at="2026-11-30T12:00:00Z")]
    rows = {row["id"]: row for row in joined(starts, [], forgotten=True)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "count": "running",
        "never": "ended",
        "old": "forgotten",
    }
    assert rows["count"]["incarnation"] == 1


STARTING = {"started_at": None}
WAITING = {"started_at": None, "choice": None, "waited_for": "a dump of incarnation 1"}
ENDED = {"ended_at": "2026-11-30T11:02:00Z"}
BESIDE = {
    "one that is being created": ([{}, STARTING], 1),
    "two": ([{}, STARTING, STARTING], 1),
    "one that waits": ([{}, WAITING], 2),
    "one that is being created behind one that waits": ([{}, WAITING, STARTING], 3),
    "one that waits behind one that is being created": ([{}, STARTING, WAITING], 3),
    "one that has run since": ([{}, STARTING, ENDED], 3),
    "one that is being created behind one that has run since": ([{}, ENDED, STARTING], 3),
    "another that runs": ([{}, {}, STARTING], 2),
    "one that is being created, while it has ended": ([ENDED, STARTING], 2),
}
"""The starts of an id, the oldest first, and the number of that which is its own."""


@pytest.mark.parametrize("name", BESIDE)
def test_a_container_that_runs_is_its_ids_until_a_newer_one_does_or_waits_for_it(name: str) -> None:
    starts, own = BESIDE[name]
    (row,) = joined([start("count", number, **how) for number, how in enumerate(starts, 1)], [])
    assert row["incarnation"] == own


def test_a_forgotten_id_is_listed_only_where_it_is_wanted_until_something_is_there_of_it_again() -> None:
    gone = {"ended_at": "2026-11-30T11:01:00Z", "forgotten_at": "2026-11-30T11:30:00Z"}
    starts = [start("gone", 1, **gone), start("again", 1, **gone), start("again", 2), start("brought", 1, **gone)]
    latest = [snapshot("brought")]
    assert {row["id"]: row["state"] for row in joined(starts, latest)} == {"again": "running", "brought": "ended"}
    assert {row["id"]: row["state"] for row in joined(starts, latest, forgotten=True)} == {
        "again": "running",
        "brought": "ended",
        "gone": "forgotten",
    }


@pytest.mark.parametrize(
    ("ago", "said"), [(timedelta(seconds=42), "42s"), (timedelta(minutes=7.9), "7m"), (timedelta(hours=3), "3h"), (timedelta(days=12), "12d"), (-timedelta(seconds=5), "0s")]
)  # fmt: skip
def test_an_age_is_said_as_kubectl_says_it(ago: timedelta, said: str) -> None:
    assert age((NOON - ago).isoformat(), NOON) == said
    assert age((NOON - ago).replace(tzinfo=None).isoformat(), NOON) == said
    assert age(None, NOON) is None


@pytest.mark.parametrize("form", ["wide", "json", "yaml"])
@pytest.mark.usefixtures("log")
def test_what_a_rehearsal_showed_is_listed_with_its_snapshot(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = (
        {name: None for name, *_ in CONTRACT["checkpoint_history"].columns}
        | snapshot("count")
        | {"status": "failed", "rehearsal": "failed"}
    )
    row |= {"rehearsal_reason": "a file is gone", "rehearsal_seconds": 1.25}
    monkeypatch.setattr(get_commands.client, "view", lambda *_, **__: [row])
    said = woodfrog("get", "snapshots", "-o", form).stdout
    if form == "wide":
        heads, cells = (re.split(r" {2,}", line.strip()) for line in said.splitlines())
        told = {head.lower().replace(" ", "_"): cell for head, cell in zip(heads, cells, strict=True)}
    else:
        (told,) = yaml.safe_load(said)
    assert (told["rehearsal"], told["rehearsal_reason"], str(told["rehearsal_seconds"])) == (
        "failed",
        "a file is gone",
        "1.25",
    )


@pytest.mark.usefixtures("log")
def test_a_wide_table_has_rows_that_lack_what_others_have() -> None:
    said = {line.split()[1]: line for line in woodfrog("get", "ids", "-o", "wide").stdout.splitlines()[1:]}
    assert ("s-count" in said["count"], "running" in said["train"], "s-archived" in said["archived"]) == (True,) * 3


@pytest.mark.usefixtures("log")
def test_lists_are_of_all_namespaces_of_one_or_of_an_id() -> None:
    assert woodfrog("get", "ids", "-o", "name").stdout.split() == ["archived", "count", "held", "new", "train"]
    assert woodfrog("get", "ids", "-A", "-o", "name").stdout.split() == ["archived", "count", "held", "new", "train"]
    assert woodfrog("get", "ids", "-n", "team", "-o", "name").stdout.split() == ["train"]
    heading, row = woodfrog("get", "ids", "-n", "team").stdout.splitlines()
    assert heading.split() == ["NAMESPACE", "ID", "STATE", "NODE", "SNAPSHOT", "ID", "AGE", "SIZE"]
    assert row.split() == ["team", "train", "running", "n1", "-", "-", "-"]
    for verb in ("failures", "commands"):
        assert [row["id"] for row in json.loads(woodfrog("get", verb, "-o", "json").stdout)] == ["a", "b"]
        assert [row["id"] for row in json.loads(woodfrog("get", verb, "-n", "team", "-o", "json").stdout)] == ["b"]
        assert [row["id"] for row in json.loads(woodfrog("get", verb, "a", "-o", "json").stdout)] == ["a"]
        assert json.loads(woodfrog("get", verb, "a", "-n", "team", "-o", "json").stdout) == []


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("ids", "-A", "-n", "team"), "--all-namespaces"),
        (("failures", "a", "-A"), "--all-namespaces"),
        (("failures", "a/b"), "ID"),
        (("commands", "-n", "a/b"), "--namespace"),
        (("ids", "-w", "-o", "yaml"), "--watch"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(words: tuple[str, ...], named: str) -> None:
    refused = woodfrog("get", *words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert named in refused.stderr


@pytest.mark.usefixtures("log")
def test_watching_shows_everything_once_and_then_what_is_new_or_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [False, False, True]
    monkeypatch.setattr(watch, "_is_deaf", lambda: turns.pop(0))
    monkeypatch.setattr(watch, "_SECONDS", 0)
    ended = start("train", 1, "team", ended_at="2026-11-30T11:59:00Z", exit_code=0)
    reads = [STARTS, STARTS, [*STARTS[:1], ended, *STARTS[2:], start("later", 1)]]

    def rows(_reach: Reach, view: View, _which: object, _limit: int) -> list[dict[str, Any]]:
        return reads.pop(0) if view == "restore_history" else LATEST

    monkeypatch.setattr(get_commands, "_rows", rows)
    said = [json.loads(line) for line in woodfrog("get", "ids", "-w", "-o", "json").stdout.splitlines()]
    assert [row["id"] for row in said] == ["archived", "count", "held", "new", "train", "later", "train"]
    assert said[-1]["state"] == "ended"


def test_a_shell_completes_verbs() -> None:
    program = Path(sys.executable).with_name("woodfrog")
    asked = {**os.environ, "_WOODFROG_COMPLETE": "complete_bash", "COMP_WORDS": "woodfrog get f", "COMP_CWORD": "2"}
    done = subprocess.run([program], env=asked, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["failures", "files"]


def test_events_are_asked_for_by_id_namespace_node_type_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[EventFilter, CheckpointKey | None]] = []

    def events(
        _reach: Reach, only: EventFilter, key: CheckpointKey | None = None, *, limit: int
    ) -> list[dict[str, Any]]:
        asked.append((only, key))
        assert limit == 5
        return [
            {"position": 7, "occurred_at": "2026-11-30T11:00:00Z", "type": "node.lost", "stream": "s", "version": 1}
        ]

    monkeypatch.setattr(get_commands.client, "events", events)
    monkeypatch.setattr(get_commands, "reach_of", lambda _: Reach("nats://nowhere", "lab"))
    for words, only, key in (
        (["train"], EventFilter(), CheckpointKey("lab", "default", "train")),
        (["train", "-n", "team"], EventFilter(), CheckpointKey("lab", "team", "train")),
        (["-n", "team"], EventFilter(namespace="team", cluster="lab"), None),
        (["--node", "n1"], EventFilter(node="n1", cluster="lab"), None),
        (
            ["--type", "node.lost", "--type", "snapshot.stored"],
            EventFilter(types=("node.lost", "snapshot.stored"), cluster="lab"),
            None,
        ),
        (["--since", "2026-11-30T12:00:00Z"], EventFilter(since=NOON, cluster="lab"), None),
    ):
        done = woodfrog("get", "events", *words, "--limit", "5", "-o", "name")
        assert (done.exit_code, done.stdout) == (0, "7\n"), done.output
        assert asked.pop() == (only, key)
    assert get_commands.event_filter(None, None, [], "2h", NOON).since == NOON - timedelta(hours=2)
    for words, problem in (
        (["--type", "snapshot.store"], "did you mean snapshot.stored?"),
        (["--since", "yesterday"], "--since"),
        (["train", "--node", "n1"], "--node"),
        (["--node", "a/b"], "--node"),
    ):
        refused = woodfrog("get", "events", *words)
        assert refused.exit_code == 2
        assert problem in refused.output


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ids", "-n", "nowhere"), "no container with an id was ever started (namespace nowhere)\n"),
        (("snapshots", "gone"), "there are no snapshots (id gone, namespace default)\n"),
        (("failures", "gone", "-n", "team"), "nothing has failed (id gone, namespace team)\n"),
    ],
)
def test_an_empty_list_names_what_was_looked_for(words: tuple[str, ...], said: str) -> None:
    assert woodfrog("get", *words).stderr == said


def test_an_event_that_was_not_found_does_not_make_the_log_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_commands, "reach_of", lambda _: Reach("nats://nowhere", "local"))
    monkeypatch.setattr(get_commands.client, "events", lambda *_, **__: [])
    monkeypatch.setattr(get_commands.client, "view", lambda *_, **__: [])
    for restricted in (("--type", "snapshot.stored"), ("-n", "team"), ("gone",), ("--since", "2h")):
        assert woodfrog("get", "events", *restricted).stderr == "there are no such events\n"
    assert woodfrog("get", "events").stderr == "the log is empty\n"
