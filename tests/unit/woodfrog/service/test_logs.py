"""What a log line says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from nats.js.errors import ServerError
from support.logstory import KEY, NODE_A, opened, stored

from controlplane.core.event_lines import note
from controlplane.log.records import Metadata, Recorded
from nodeworker.threads import in_daemon_thread
from woodfrog.protocol.ids import IncarnationNumber, Position, Version
from woodfrog.service import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logs.configure()
    structlog.reset_defaults()
    logs._of_process.clear()


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


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_a_line_says_what_it_is_about_also_from_threads_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.of_process(node="node-a")
    log = structlog.get_logger(component="x")

    async def work(command: str) -> None:
        with logs.about(command_id=command, key=KEY, container_id=None):
            log.info("begun")
            await in_daemon_thread(lambda: log.info("in a thread"))
            await asyncio.to_thread(log.info, "in another")
            await asyncio.create_task(asyncio.to_thread(log.info, "in a task"))
            logs.also_about(snapshot_id="s1")
            log.info("ended", node="elsewhere")

    await asyncio.gather(work("c1"), work("c2"))
    log.info("nothing in particular")
    *told, last = lines(capsys)
    for command in ("c1", "c2"):
        own = [line for line in told if line["command_id"] == command]
        assert [line["msg"] for line in own] == ["begun", "in a thread", "in another", "in a task", "ended"]
        assert {(line["key"], line["node"]) for line in own[:-1]} == {("local/default/train-7", "node-a")}
        assert (own[-1]["snapshot_id"], own[-1]["node"]) == ("s1", "elsewhere")
        assert "container_id" not in own[0]
    assert set(last) == {"ts", "level", "msg", "component", "node"}


def test_at_level_debug_every_event_has_a_line_with_its_position(capsys: pytest.CaptureFixture[str]) -> None:
    new = opened("train-7")
    event = stored("s1", IncarnationNumber(1), NODE_A, "c1")
    metadata = Metadata("worker/node-a", "report-1", "c1")
    record = Recorded(
        Position(7),
        f"checkpoint/{KEY}",
        Version(3),
        new.event_id,
        event,
        metadata,
        new.occurred_at,
        new.occurred_at,
        "",
    )
    logs.configure("info")
    note([record])
    assert lines(capsys) == []
    logs.configure("debug")
    note([record])
    (line,) = lines(capsys)
    about = ("msg", "type", "position", "key", "node", "snapshot_id", "command_id", "actor", "causation")
    assert [line[name] for name in about] == [
        "recorded", "snapshot.stored", 7, str(KEY), "node-a", "s1", "c1", "worker/node-a", "report-1",
    ]  # fmt: skip


@pytest.mark.parametrize("gone", ["reader", "room"])
def test_what_is_logged_where_nobody_takes_it_ends_no_work(gone: str) -> None:
    """With a pipe that nobody reads, and on a full disk (full(4)); in a process of its own, whose standard error it is."""
    code = (
        "import structlog, sys\nfrom woodfrog.service import logs\nlogs.configure()\nlog = structlog.get_logger(component='c')\n"
        "sys.stdin.read()\n"
        "for number in range(2000):\n    log.warning('said', number=number)\n"
        "sys.stdout.write('done')\nsys.stdout.flush()\n__import__('os')._exit(0)"
    )
    reading, writing = (
        os.pipe() if gone == "reader" else (os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY))
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing
    ) as process:
        os.close(writing)
        os.close(reading)
        out, _ = process.communicate(timeout=30)
    assert out == b"done"
