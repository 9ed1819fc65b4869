"""Work is not lost silently: what a start leaves behind, and what a stop could not capture, is said where the user looks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.stack import Run, Stack, until
from support.time_scale import scaled

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done")
LEFT = "woodfrog: warning: 1 snapshot with captured work left behind; `woodfrog get snapshots {}` lists what there is"


def begin(stack: Stack, checkpoint_id: str, *options: str) -> Run:
    run = stack.run(checkpoint_id, *COUNT, options=options)
    run.until_lines("/count", 3)
    return run


def kill(stack: Stack, run: Run) -> str:
    """Kill the container; return what was said on standard error."""
    ends = stack.types(run.id).count("container.ended")
    os.kill(run.init_pid(), 9)
    said = run.wait()[2]
    until(lambda: stack.types(run.id).count("container.ended") > ends, saying="its end is recorded")
    return said


def left(stack: Stack, checkpoint_id: str, *options: str) -> str:
    """Leave a snapshot of the id; return its name."""
    begin(stack, checkpoint_id, *options).stop()
    return stack.until_stored(checkpoint_id)[0]


def hear(run: Run, words: str) -> str:
    """Read standard error until these words are in it."""
    assert run.process.stderr is not None
    said = ""
    while words not in said:
        line = run.process.stderr.readline()
        assert line, said
        said += line
    return said


TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()  # PTRACE_SEIZE
print("traced", flush=True)
sys.stdin.read()
"""
VSOCK = "held = socket.socket(40, socket.SOCK_STREAM); open('/count', 'a').write('1\\n' * 3); time.sleep(1e6)"
STAYS = (sys.executable, "-c", f"import socket, time; {VSOCK}")
ENDS_WELL = (
    sys.executable,
    "-c",
    f"import os, signal, socket, time; signal.signal(15, lambda *_: os._exit(0)); {VSOCK}",
)


@contextmanager
def traced(run: Run) -> Iterator[None]:
    """Have a debugger attached to the container's first process."""
    command = [sys.executable, "-c", TRACE, str(run.init_pid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "traced\n"
        yield
        tracer.communicate()


@contextmanager
def worker_away(stack: Stack) -> Iterator[None]:
    """Have nobody find the node worker."""
    elsewhere = stack.socket.with_name("elsewhere")
    stack.socket.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(stack.socket)


def test_a_cold_start_that_leaves_work_behind_says_so_on_the_terminal_and_in_why(stack: Stack, tmp_path: Path) -> None:
    snapshot = left(stack, "cold", "--mount", f"{tmp_path}:/v")
    said = kill(stack, begin(stack, "cold"))
    assert "woodfrog: starts from its image: no snapshot is usable" in said
    assert "the new container has no mount at /v" in said
    assert LEFT.format("cold") in said
    assert "1 snapshot with captured work left behind." in stack.cli("why", "cold").stdout
    again = begin(stack, "cold", "--mount", f"{tmp_path}:/v")
    assert again.container["restored_from"] == snapshot
    kill(stack, again)


def test_a_start_on_a_full_disk_is_named_so_and_the_snapshot_is_used_once_there_is_room(stack: Stack) -> None:
    snapshot = left(stack, "full")
    shutil.rmtree(stack.copy_of("full", snapshot))
    places = [Path(stack.ready["spool"]).with_name(name) for name in ("fetched", "copies")]
    with ExitStack() as mounted:
        for place in places:
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", place], check=True, timeout=10)
            mounted.callback(subprocess.run, ["umount", "--lazy", place], check=True, timeout=10)
        refused = stack.popen_run("full", *COUNT, options=("--require-restore",))
        _, said = refused.communicate(timeout=60)
    assert refused.returncode == 125
    assert f"{snapshot} skipped: it could not be restored in this start: " in said
    assert "(disk-full)" in said, said
    again = begin(stack, "full")
    assert again.container["restored_from"] == snapshot
    kill(stack, again)


def test_so_does_a_start_from_an_older_snapshot(stack: Stack, tmp_path: Path) -> None:
    older = left(stack, "older")
    begin(stack, "older", "--mount", f"{tmp_path}:/v").stop()
    stack.until_stored("older", 2)
    again = begin(stack, "older")
    assert again.container["restored_from"] == older
    assert "woodfrog: warning: 1 newer snapshot with captured work left behind" in kill(stack, again)


def test_a_first_start_leaves_nothing_behind(stack: Stack) -> None:
    assert "warning" not in kill(stack, begin(stack, "first"))


def test_a_restore_that_is_required_is_refused_rather_than_cold(stack: Stack, tmp_path: Path) -> None:
    left(stack, "required", "--require-restore", "--mount", f"{tmp_path}:/v")
    refused = stack.popen_run("required", *COUNT, options=("--require-restore",))
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 125
    assert "(restore-required)" in said
    assert "the new container has no mount at /v" in said


def test_a_fresh_start_begins_again_and_no_later_one_goes_back_unless_it_is_retried(stack: Stack) -> None:
    snapshot = left(stack, "fresh")
    anew = begin(stack, "fresh", "--fresh")
    assert anew.lines("/count")[:2] == ["1", "2"]
    assert LEFT.format("fresh") in kill(stack, anew)
    later = begin(stack, "fresh")
    assert later.lines("/count")[:2] == ["1", "2"]
    assert "incarnation 2 started fresh, as was asked for" in kill(stack, later)
    stack.cli("retry", snapshot)
    back = begin(stack, "fresh")
    assert back.container["restored_from"] == snapshot
    kill(stack, back)


@contextmanager
def store_away(stack: Stack) -> Iterator[None]:
    """Have something else be where the store is."""
    elsewhere = stack.store.with_name("elsewhere")
    stack.store.rename(elsewhere)
    stack.store.write_text("not a directory")
    try:
        yield
    finally:
        stack.store.unlink()
        elsewhere.rename(stack.store)


def test_a_capture_that_the_store_did_not_take_is_stored_when_somebody_retries_it(stack: Stack) -> None:
    run = begin(stack, "retried")
    reached = len(run.lines("/count"))
    with store_away(stack):
        run.stop()
        until(lambda: "snapshot.store-delayed" in stack.types("retried"), saying="the store has refused it")
        (snapshot,) = stack.json("get", "snapshots", "retried")
        assert snapshot["status"] == "captured"
        refused = stack.cli("retry", snapshot["snapshot_id"], check=False)
        assert refused.returncode != 0
        assert "store-unreachable" in refused.stderr
        assert "The node tries again by itself until the capture is stored." in refused.stderr
    stack.cli("retry", snapshot["snapshot_id"])
    (stored,) = stack.json("get", "snapshots", "retried")
    assert stored["status"] == "valid"
    again = begin(stack, "retried")
    assert again.container["restored_from"] == snapshot["snapshot_id"]
    counted = again.until_lines("/count", reached + 3)
    assert counted == [str(number) for number in range(1, len(counted) + 1)]
    kill(stack, again)


def test_whoever_waits_for_a_snapshot_is_shown_that_the_store_does_not_take_it(stack: Stack) -> None:
    run = begin(stack, "awaited")
    with store_away(stack):
        seconds = f"{scaled(10):g}"
        refused = stack.cli("checkpoint", "awaited", "--timeout", seconds, check=False)
        assert refused.returncode == 1
        *shown, last = refused.stderr.splitlines()
        (why,) = [line for line in shown if "is captured and not stored, since" in line]
        assert "it can be restored there" in why
        assert f"not stored after {seconds} s: " in last
        assert "The node tries until the capture is stored" in last
    stack.until_stored("awaited")
    kill(stack, run)


def test_periodic_snapshots_go_on_while_the_store_is_away_and_a_crash_resumes_from_the_newest(stack: Stack) -> None:
    run = begin(stack, "periodic", "--interval", "1s")
    with store_away(stack):
        counts = [0]

        def delayed(times: int) -> bool:
            counts.append(len(run.lines("/count")))
            return stack.types("periodic").count("snapshot.store-delayed") >= times

        until(lambda: delayed(2), 60, saying="two captures were refused")
        reached = counts[-2]
        until(lambda: delayed(3), 60, saying="a third was taken after them and refused")
        kill(stack, run)
        again = begin(stack, "periodic")
        assert len(again.lines("/count")) >= reached
        waiting = [each for each in stack.json("get", "snapshots", "periodic") if each["status"] == "captured"]
        assert again.container["restored_from"] == waiting[-1]["snapshot_id"]
        assert len(waiting) <= 2
        counted = again.until_lines("/count", counts[-1] + 3)
        assert counted == [str(number) for number in range(1, len(counted) + 1)]
        kill(stack, again)


def test_a_stop_whose_worker_is_back_in_time_promises_nothing_before_it_has_its_snapshot(stack: Stack) -> None:
    run = begin(stack, "back")
    with worker_away(stack):
        run.process.terminate()
        said = hear(run, "the node worker does not answer")
    said += run.wait()[2]
    assert "no final snapshot" not in said
    assert "captured as" in said
    again = begin(stack, "back")
    assert again.container["restored_from"] in said
    again.stop()


def test_a_stop_whose_worker_stays_away_says_that_there_is_no_snapshot(stack: Stack) -> None:
    run = begin(stack, "away")
    with worker_away(stack):
        run.process.terminate()
        hear(run, "the node worker does not answer")
        os.kill(run.init_pid(), 9)
        code, _, said = run.wait()
    assert code == 125
    assert "no final snapshot: the node worker does not answer" in said
    assert "the next start of away starts from its image" in said


def until_tried(stack: Stack, words: str) -> None:
    """Wait until the worker has said that a final dump failed with these words, and is tried again."""
    log = stack.state / "logs" / "nodeworker.log"
    until(
        lambda: any("is tried again" in line and words in line for line in log.read_text().splitlines()),
        saying="a try failed",
    )


def test_a_stop_while_the_disk_is_full_is_captured_once_there_is_room(stack: Stack) -> None:
    run = begin(stack, "room")
    spool = Path(stack.ready["spool"])
    spool.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", spool], check=True, timeout=10)
    try:
        run.process.terminate()
        until_tried(stack, "(disk-full)")
    finally:
        subprocess.run(["umount", "--lazy", spool], check=True, timeout=10)
    code, _, said = run.wait()
    assert code == 137
    assert "captured as" in said
    assert stack.types("room").count("snapshot.dump-failed") == 0


def test_a_stop_while_a_debugger_is_attached_is_captured_once_it_lets_go(stack: Stack) -> None:
    run = begin(stack, "traced")
    with traced(run):
        run.process.terminate()
        until_tried(stack, "(traced)")
    code, _, said = run.wait()
    assert code == 137
    assert "captured as" in said
    assert stack.types("traced").count("snapshot.dump-failed") == 0
    again = begin(stack, "traced")
    assert again.container["restored_from"] in said
    again.stop()


def test_a_paused_container_that_is_stopped_is_captured(stack: Stack) -> None:
    run = begin(stack, "paused")
    runc = ["runc", "--root", stack.runc_root]
    subprocess.run([*runc, "pause", run.container["container_id"]], check=True, timeout=20)
    code, _, said = run.stop()
    assert code == 137
    assert "captured as" in said


def test_a_program_that_ends_well_without_having_been_captured_does_not_end_with_0(stack: Stack) -> None:
    run = stack.run("well", *ENDS_WELL)
    run.until_lines("/count", 3)
    code, _, said = run.stop()
    assert "no final snapshot: a process holds a socket of a family that CRIU does not know" in said
    assert code == 125
    (ended,) = [event for event in stack.history("well") if event["type"] == "container.ended"]
    assert ended["data"]["exit_code"] == 0


def test_one_that_is_killed_by_a_second_signal_says_so_with_its_exit_code(stack: Stack) -> None:
    run = stack.run("second", *STAYS)
    run.until_lines("/count", 3)
    run.process.terminate()
    hear(run, "no final snapshot")
    code, _, _ = run.stop()
    assert code == 137


DATABASE = (
    sys.executable,
    "-c",
    f"import os, signal, socket, time; open('/data', 'a').write('row\\n'); signal.signal(15, lambda *_: os._exit(0)); {VSOCK}",
)


def test_the_files_of_a_container_that_was_not_captured_are_kept_offered_started_from_and_removed(stack: Stack) -> None:
    forget_layers(stack)
    run = stack.run("layer", *DATABASE)
    run.until_lines("/count", 3)
    code, _, said = run.stop()
    assert code == 125
    assert "the container's files are kept: `woodfrog run --id layer --from-layer newest` starts from them" in said
    (kept,) = stack.json("get", "layers")
    assert (kept["id"], kept["layer"]) == ("layer", run.container["container_id"])
    assert "socket of a family" in kept["why"]
    plain = stack.run("layer", *DATABASE)
    assert plain.until_lines("/data", 1) == ["row"]
    said = kill(stack, plain)
    assert f"woodfrog: warning: the files of container {kept['layer']} are kept" in said
    assert f"`woodfrog run --id layer --from-layer {kept['layer']}` starts from them" in said
    again = stack.run("layer", *DATABASE, options=("--from-layer", kept["layer"]))
    again.until_lines("/count", 6)
    assert again.lines("/data") == ["row", "row"]
    assert kept["layer"] not in {each["layer"] for each in stack.json("get", "layers")}
    kill(stack, again)
    forget_layers(stack)


def forget_layers(stack: Stack) -> None:
    for each in stack.json("get", "layers"):
        stack.cli("rm", each["layer"])
    assert stack.json("get", "layers") == []


TOO_LONG = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
for _ in range(25):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
open("/count", "a").write("1\\n2\\n3\\n")
time.sleep(1e6)
"""


def test_a_container_of_which_no_manifest_can_be_made_is_not_ended_for_one_and_keeps_its_files(stack: Stack) -> None:
    forget_layers(stack)
    run = stack.run("long", sys.executable, "-c", TOO_LONG)
    run.until_lines("/count", 3)
    code, _, said = run.stop()
    assert code == 125
    assert "captured as" not in said
    assert "A path of " in said
    assert "(capture-unfit)" in said
    (kept,) = stack.json("get", "layers")
    assert kept["layer"] == run.container["container_id"]
    forget_layers(stack)


def test_a_layer_is_not_lost_when_the_container_over_it_cannot_be_created(stack: Stack) -> None:
    forget_layers(stack)
    run = stack.run("uncreated", *DATABASE)
    run.until_lines("/count", 3)
    run.stop()
    failed = stack.popen_run("uncreated", "/no/such/program", options=("--from-layer", "newest"))
    failed.communicate(timeout=60)
    assert failed.returncode == 127
    (kept,) = stack.json("get", "layers")
    again = stack.run("uncreated", *DATABASE, options=("--from-layer", kept["layer"]))
    again.until_lines("/count", 6)
    assert again.lines("/data") == ["row", "row"]
    kill(stack, again)


def test_of_a_program_that_has_ended_well_nothing_is_kept(stack: Stack) -> None:
    forget_layers(stack)
    done = stack.popen_run("well-done", "sh", "-c", "echo 1 > /count")
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert stack.json("get", "layers") == []
