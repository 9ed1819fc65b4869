"""Kill it, fill it, corrupt it: the work goes on, nothing half-done is chosen, and the log says what happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.harm import invert
from support.stack import WOODFROG, Run, Stack, running, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def assert_counts(record: list[str]) -> None:
    assert [int(line) for line in record] == list(range(1, len(record) + 1))


def goes_on(run: Run, seconds: float = 30) -> None:
    """See that the workload is alive and lost nothing."""
    assert_counts(run.until_lines("/count", len(run.lines("/count")) + 5, seconds))


def failures(stack: Stack, checkpoint_id: str, kind: str) -> list[dict[str, str]]:
    return [event["data"]["failure"] for event in stack.history(checkpoint_id) if event["type"] == kind]


def fault(folder: Path, *points: str) -> dict[str, str]:
    once = folder / "faults"
    once.mkdir()
    return {"WOODFROG_FAULT": ",".join(f"{point}=kill" for point in points), "WOODFROG_FAULT_ONCE": str(once)}


@pytest.mark.parametrize("point", ["dump.after-journal", "dump.frozen", "dump.after-criu"])
def test_a_worker_killed_while_a_container_is_frozen_thaws_it_when_it_is_back(folder: Path, point: str) -> None:
    with running(folder / "s", fault(folder, point)) as stack:
        run = stack.run("frozen", *COUNT)
        run.until_lines("/count", 5)
        worker = stack.child("nodeworker")
        assert stack.cli("checkpoint", "frozen", check=False).returncode == 1
        assert (folder / "faults" / point).exists()
        until(lambda: stack.child("nodeworker") != worker, saying="the worker is back")
        goes_on(run, seconds=5)
        until(lambda: failures(stack, "frozen", "snapshot.dump-failed"), saying="the dump is recorded as failed")
        assert failures(stack, "frozen", "snapshot.dump-failed")[0]["code"] == "worker-restarted"
        stack.cli("checkpoint", "frozen")
        goes_on(run)
        run.stop()


def test_a_worker_killed_after_a_capture_stores_it_when_it_is_back(folder: Path) -> None:
    with running(folder / "s", fault(folder, "dump.captured")) as stack:
        run = stack.run("captured", *COUNT)
        before = len(run.until_lines("/count", 5))
        run.stop()
        assert len(stack.until_stored("captured")) == 1
        second = stack.run("captured", *COUNT)
        record = second.until_lines("/count", before + 5)
        second.stop()
        assert_counts(record)


def test_a_worker_killed_during_a_final_dump_does_not_keep_the_container_from_stopping(folder: Path) -> None:
    with running(folder / "s", fault(folder, "dump.frozen")) as stack:
        run = stack.run("stopping", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
        code, _, said = run.stop()
        assert code == 137
        assert "captured as" in said, "the worker is back when it is asked again"


def test_a_broker_killed_and_started_again_loses_nothing(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("broker", *COUNT)
        before = len(run.until_lines("/count", 5))
        broker = stack.child("nats")
        os.kill(broker, signal.SIGKILL)
        run.stop()
        until(lambda: stack.child("nats") != broker, saying="the broker is back")
        stack.until_stored("broker")
        second = stack.run("broker", *COUNT)
        record = second.until_lines("/count", before + 5)
        second.stop()
        assert_counts(record)


def test_a_stop_signal_while_the_control_plane_is_away_is_dumped_and_recorded_later(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("away", *COUNT)
        before = len(run.until_lines("/count", 5))
        plane = stack.child("controlplane")
        os.kill(plane, signal.SIGSTOP)
        run.stop()
        os.kill(plane, signal.SIGKILL)
        until(lambda: stack.child("controlplane") != plane, saying="the control plane is back")
        stack.until_stored("away")
        second = stack.run("away", *COUNT)
        record = second.until_lines("/count", before + 5)
        second.stop()
        assert_counts(record)


def test_everything_killed_at_once_goes_on_from_the_log(folder: Path) -> None:
    stack = Stack(folder / "s")
    try:
        stack.start()
        run = stack.run("all", *COUNT)
        before = len(run.until_lines("/count", 5))
        run.stop()
        stack.until_stored("all")
        assert stack.process is not None
        for name in ("nodeworker", "controlplane", "nats"):
            os.kill(stack.child(name), signal.SIGKILL)
        stack.stop()
        stack.start()
        second = stack.run("all", *COUNT)
        record = second.until_lines("/count", before + 5)
        second.stop()
        assert_counts(record)
        assert stack.types("all").count("snapshot.stored") == 2
    finally:
        stack.close()


HOG = """
import os, time
memory = bytearray(os.urandom(96 << 20))
with open("/written", "wb") as file:
    file.write(os.urandom(32 << 20))
number = 0
with open("/count", "a", buffering=1) as record:
    while True:
        number += 1
        record.write(f"{number}\\n")
        time.sleep(0.05)
"""


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at], check=True, timeout=10)


def test_a_full_disk_fails_the_dump_with_a_clear_word_and_leaves_the_workload_alone(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("hog", sys.executable, "-c", HOG)
        run.until_lines("/count", 5)
        with small_disk(Path(stack.ready["spool"]), "64m"):
            refused = stack.cli("checkpoint", "hog", check=False)
            assert refused.returncode == 1
            assert "disk-full" in refused.stderr
            goes_on(run)
        stack.cli("checkpoint", "hog")
        goes_on(run)
        run.stop()


@pytest.mark.parametrize("point", ["dump.frozen", "dump.after-criu"], ids=["CRIU writes", "files are copied"])
def test_a_disk_that_fills_in_the_middle_of_a_dump_leaves_the_workload_alone(folder: Path, point: str) -> None:
    (folder / "faults").mkdir()
    release = folder / "release"
    environment = {
        "WOODFROG_FAULT": f"{point}=pause",
        "WOODFROG_FAULT_ONCE": str(folder / "faults"),
        "WOODFROG_FAULT_RELEASE": str(release),
    }
    with running(folder / "s", environment) as stack:
        run = stack.run("hog", sys.executable, "-c", HOG)
        run.until_lines("/count", 5)
        spool = Path(stack.ready["spool"])
        with small_disk(spool, "512m"):
            asked = subprocess.Popen(
                [WOODFROG, "checkpoint", "hog", "--state-dir", stack.state], stderr=subprocess.PIPE, text=True
            )
            until((folder / "faults" / point).exists, saying="the container is frozen")
            fill(spool)
            release.touch()
            _, said = asked.communicate(timeout=60)
            assert asked.returncode == 1
            assert "disk-full" in said
            goes_on(run)
            (spool / "ballast").unlink()
            assert list(spool.iterdir()) == []
            stack.cli("checkpoint", "hog")
        goes_on(run)
        run.stop()


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1 << 20))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [invert, truncate, Path.unlink], ids=["inverted", "truncated", "missing"])
@pytest.mark.parametrize("what", ["pack", "manifest"])
def test_a_harmed_snapshot_is_never_chosen_and_the_one_before_is(
    folder: Path, harm: Callable[[Path], None], what: str
) -> None:
    with running(folder / "s") as stack:
        run = stack.run("harm", *COUNT)
        run.until_lines("/count", 5)
        stack.cli("checkpoint", "harm")
        older = len(run.lines("/count"))
        run.until_lines("/count", older + 20)
        run.stop()
        good, harmed = stack.until_stored("harm", 2)
        newest = next(path for path in stack.store.rglob(harmed))
        files = [path for path in newest.rglob("*") if path.is_file()]
        manifest = [path for path in files if "manifest" in path.name]
        for path in manifest if what == "manifest" else [path for path in files if path not in manifest]:
            harm(path)
        shutil.rmtree(stack.copy_of("harm", harmed))  # as on any other node
        second = stack.run("harm", *COUNT)
        assert second.container["restored_from"] == good
        assert_counts(second.until_lines("/count", older + 25))
        assert {"incarnation.restore-failed", "snapshot.invalidated"} <= set(stack.types("harm"))
        assert harmed in stack.cli("why", "harm").stdout
        second.stop()


@pytest.mark.parametrize("harm", [invert, truncate, Path.unlink], ids=["inverted", "truncated", "missing"])
@pytest.mark.parametrize("name", ["pages-1.img", "core-1.img"], ids=["memory", "what CRIU interprets"])
def test_a_harmed_copy_on_the_node_is_noticed_and_the_store_has_the_snapshot(
    folder: Path, harm: Callable[[Path], None], name: str
) -> None:
    with running(folder / "s") as stack:
        run = stack.run("copy", *COUNT)
        reached = len(run.until_lines("/count", 5))
        run.stop()
        (stored,) = stack.until_stored("copy")
        harm(stack.copy_of("copy", stored) / "images" / name)
        second = stack.run("copy", *COUNT)
        assert second.container["restored_from"] == stored
        assert_counts(second.until_lines("/count", reached + 5))
        assert "incarnation.restore-failed" not in stack.types("copy")
        second.stop()


def test_a_whole_copy_on_the_node_goes_on_when_the_store_has_lost_the_snapshot(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("alone", *COUNT)
        reached = len(run.until_lines("/count", 5))
        run.stop()
        (stored,) = stack.until_stored("alone")
        stack.copy_of("alone", stored)
        shutil.rmtree(stack.store)
        stack.store.mkdir()
        second = stack.run("alone", *COUNT)
        assert second.container["restored_from"] == stored
        assert_counts(second.until_lines("/count", reached + 5))
        second.stop()


def test_when_every_snapshot_is_gone_the_start_is_cold_and_says_why(folder: Path) -> None:
    with running(folder / "s") as stack:
        run = stack.run("gone", *COUNT)
        run.until_lines("/count", 5)
        run.stop()
        (stored,) = stack.until_stored("gone")
        shutil.rmtree(stack.copy_of("gone", stored))
        shutil.rmtree(stack.store)
        stack.store.mkdir()
        second = stack.run("gone", *COUNT)
        assert second.container["restored_from"] is None
        goes_on(second)
        cold = [event for event in stack.history("gone") if event["type"] == "incarnation.cold-start-chosen"]
        assert len(cold) == 2
        assert "snapshot" in cold[-1]["data"]["reason"]
        second.stop()


def test_without_a_worker_a_create_waits_and_then_fails_with_a_message_that_says_so(folder: Path) -> None:
    with running(folder / "s", {"WOODFROG_WORKER_WAIT_SECONDS": "2"}) as stack:
        stack.stop()
        began = time.monotonic()
        process = stack.popen_run("nobody", *COUNT)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "Woodfrog worker of this node was not there" in err
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("bad", ["a/b", "..", "", "x" * 300, "tab\there", "-dash", "dot."])
def test_a_bad_id_is_refused_by_name_and_changes_nothing(folder: Path, bad: str) -> None:
    with running(folder / "s") as stack:
        refused = stack.popen_run(bad, *COUNT)
        _, err = refused.communicate(timeout=30)
        assert refused.returncode == 2
        assert "id" in err
        assert stack.containers() == []
        assert [event["type"] for event in stack.json("get", "events")] in ([], ["node.registered"])
