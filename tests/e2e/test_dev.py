"""``woodfrog dev`` and its verbs as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.collector import collecting
from support.stack import WOODFROG, Stack, running, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def test_the_ready_line_tells_where_everything_is_but_no_password(stack: Stack) -> None:
    assert {"socket", "runtime", "store", "database"} <= set(stack.ready)
    password = json.loads((stack.state / "dev.json").read_text())["nats_url"].split(":")[2].split("@")[0]
    assert password not in json.dumps(stack.ready)
    assert (stack.state / "dev.json").stat().st_mode & 0o777 == 0o600
    assert stack.socket.stat().st_mode & 0o777 == 0o600


def test_a_second_dev_on_the_same_directory_is_refused(stack: Stack) -> None:
    second = subprocess.run(
        [WOODFROG, "dev", "--state-dir", stack.state], check=False, capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert "already-running" in second.stderr


def test_a_mount_whose_source_is_a_link_is_restored(stack: Stack, folder: Path) -> None:
    (folder / "here").mkdir()
    (folder / "link").symlink_to("here")
    mount = ("--mount", f"{folder}/link:/mounted")
    count = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /mounted/count; sleep 0.05; done"]
    run = stack.run("linked", *count, options=mount)
    until(lambda: (folder / "here/count").exists() and len((folder / "here/count").read_text().split()) > 5)
    run.stop()
    before = len((folder / "here/count").read_text().split())
    again = stack.run("linked", *count, options=mount)
    until(lambda: len((folder / "here/count").read_text().split()) > before + 5)
    again.stop()
    numbers = [int(number) for number in (folder / "here/count").read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_sigterm_stops_everything_cleanly_and_a_new_start_goes_on_from_the_log(folder: Path) -> None:
    stack = Stack(folder / "s")
    try:
        stack.start()
        pids = json.loads((stack.state / "dev.json").read_text())["pids"]
        run = stack.run("kept", *COUNT)
        run.until_lines("/count", 5)
        run.stop()
        stack.until_stored("kept")
        before = stack.json("get", "events")
        assert stack.stop() == 0
        assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
        stack.start()
        assert stack.json("get", "events")[: len(before)] == before
    finally:
        stack.close()


def test_impatience_does_not_cut_the_stop_short(folder: Path) -> None:
    stack = Stack(folder / "s")
    try:
        stack.start()
        pids = json.loads((stack.state / "dev.json").read_text())["pids"]
        assert stack.process is not None
        for _ in range(3):
            stack.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        assert stack.process.wait(timeout=60) == 0
        assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
        stack.stop()
    finally:
        stack.close()


def test_a_container_whose_run_was_killed_is_captured_and_goes_on_in_the_next_one(stack: Stack) -> None:
    first = stack.run("orphan", *COUNT)
    before = len(first.until_lines("/count", 5))
    first.process.kill()
    first.process.communicate(timeout=20)
    first.until_lines("/count", before + 5)  # it needs nobody to run, but nobody waits for it any more
    bundle = Path(first.container["bundle"])

    second = stack.run("orphan", *COUNT)
    assert not bundle.exists()
    assert second.container["restored_from"] is not None
    record = second.until_lines("/count", before + 10)
    second.stop()
    assert [int(line) for line in record] == list(range(1, len(record) + 1))


def test_a_container_whose_run_was_killed_is_left_running_while_nobody_can_capture_it(folder: Path) -> None:
    with running(folder / "s", {"WOODFROG_WORKER_WAIT_SECONDS": "2"}) as stack:
        first = stack.run("kept", *COUNT)
        before = len(first.until_lines("/count", 5))
        first.process.kill()
        first.process.communicate(timeout=20)
        stack.stop()
        _, said = stack.popen_run("other", *COUNT).communicate(timeout=60)
        assert f"{first.container['container_id']} runs on" in said
        first.until_lines("/count", before + 5)

        stack.start()
        second = stack.run("kept", *COUNT)
        assert second.container["restored_from"] is not None
        record = second.until_lines("/count", before + 10)
        second.stop()
        assert [int(line) for line in record] == list(range(1, len(record) + 1))


def test_run_says_how_it_started_and_as_what_it_was_captured(stack: Stack) -> None:
    first = stack.run("said", *COUNT, options=("-o", "json"))
    first.until_lines("/count", 5)
    code, _, err = first.stop()
    told = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in told] == ["started", "stopping", "captured"]
    assert told[0]["snapshot_id"] is None
    assert code == 128 + signal.SIGKILL
    second = stack.run("said", *COUNT)
    (stopped,) = stack.json("stop", "said")
    assert stopped["captured_as"] in second.wait()[2]
    assert second.container["restored_from"] == told[2]["snapshot_id"]


def test_a_second_signal_kills(stack: Stack) -> None:
    run = stack.run("twice-stopped", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    worker = stack.child("nodeworker")
    os.kill(worker, signal.SIGSTOP)
    try:
        run.process.send_signal(signal.SIGINT)
        assert run.process.stderr is not None
        while "stopping" not in run.process.stderr.readline():
            pass
        run.process.send_signal(signal.SIGINT)
        until(lambda: not Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
              or run.process.poll() is not None, 30, saying="the container is dead")  # fmt: skip
    finally:
        os.kill(worker, signal.SIGCONT)
    assert run.wait()[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("verb", ["ps", "history x", "why x", "get snapshots", "checkpoint x", "stop x"])
def test_a_verb_without_a_stack_says_what_to_start(folder: Path, verb: str) -> None:
    done = subprocess.run(
        [WOODFROG, *verb.split(), "--state-dir", folder / "nothing"],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "woodfrog dev" in done.stderr


def test_one_trace_leads_from_a_wish_to_the_stored_snapshot_and_another_through_a_restore(folder: Path) -> None:
    with collecting() as collector, running(folder / "s", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as stack:
        stack.run("traced", *COUNT).until_lines("/count", 3)
        snapshot = stack.json("checkpoint", "traced")["snapshot_id"]
        stack.cli("kill", "traced")
        until(lambda: "container.ended" in stack.types("traced"), 30)
        stack.run("traced", *COUNT)
        issued = next(event for event in stack.history("traced") if event["type"] == "command.issued")
        stored = next(event for event in stack.history("traced") if event["type"] == "snapshot.stored")
        assert stored["data"]["snapshot_id"] == snapshot
        (trace,) = {event["metadata"]["trace"].split("-")[1] for event in (issued, stored)}

        def of(trace_id: str) -> set[tuple[str, str]]:
            return {(span["service"], span["name"]) for span in collector.spans if span["traceId"] == trace_id}

        plane, node = "woodfrog-controlplane", "woodfrog-node"
        whole = {(plane, name) for name in ("request", "decide", "send command", "report")}
        whole |= {(node, name) for name in ("command dump", "dump preflight", "dump capture", "dump store")}
        until(lambda: of(trace) >= whole, 20, saying="the whole trace of the dump")
        restores = [span for span in collector.spans if span["name"] == "restore fetch"]
        start = {(node, name) for name in ("start", "start resolve", "restore fetch", "restore apply")}
        assert of(restores[-1]["traceId"]) >= start | {(plane, "request"), (plane, "decide")}
        lines = (stack.state / "logs/nodeworker.log").read_text().splitlines()
        assert any(trace in line and '"a snapshot is stored"' in line for line in lines)


def test_an_id_of_another_namespace_is_not_shown(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("mine", *COUNT)
        run.until_lines("/count", 3)
        run.stop()
        assert stack.history("mine")
        assert json.loads(stack.cli("history", "mine", "-n", "other", "-o", "json").stdout) == []
