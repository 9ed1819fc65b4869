"""A restored container goes on: each workload's own record shows that nothing was lost, repeated or begun anew."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stack import Run, Stack, lines, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

Workload = Callable[..., list[str]]

COUNT = "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"


def assert_counts(record: list[str]) -> None:
    assert [int(line.split()[0]) for line in record] == list(range(1, len(record) + 1))


def restored(stack: Stack, run: Run) -> bool:
    return run.container["restored_from"] is not None


def again(stack: Stack, run: Run, *command: str) -> Run:
    """Stop a run, start its id again, and see that it was restored."""
    run.stop()
    next_run = stack.run(run.id, *command)
    assert restored(stack, next_run), stack.cli("why", run.id).stdout
    return next_run


def test_a_shell_loop_counts_on_without_a_number_missing_or_repeated(stack: Stack) -> None:
    command = ["sh", "-c", COUNT]
    first = stack.run("shell", *command)
    before = len(first.until_lines("/count", 10))
    second = again(stack, first, *command)
    record = second.until_lines("/count", before + 10)
    second.stop()
    assert_counts(record)


def test_threads_and_a_half_written_open_file_go_on(stack: Stack, workload: Workload) -> None:
    command = workload("threads.py", "/record")
    first = stack.run("threads", *command)
    before = len(first.until_lines("/record", 20))
    second = again(stack, first, *command)
    record = second.until_lines("/record", before + 20)
    second.stop()
    assert_counts(record)
    chain = hashlib.sha256()
    for line in record:
        number, digest = line.split()
        chain.update(number.encode())
        assert digest == chain.hexdigest()


def test_a_process_tree_with_pipes_goes_on(stack: Stack, workload: Workload) -> None:
    command = workload("pipes.py", "/squares")
    first = stack.run("pipes", *command)
    before = len(first.until_lines("/squares", 10))
    second = again(stack, first, *command)
    record = second.until_lines("/squares", before + 10)
    second.stop()
    assert_counts(record)
    assert all(int(line.split()[1]) == int(line.split()[0]) ** 2 for line in record)


def connect(run: Run, port: int) -> socket.socket:
    """Connect to a port inside the container's network namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/proc/{run.init_pid()}/ns/net", os.O_RDONLY)
    try:
        _setns(theirs)
        connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        _setns(own)
        os.close(own)
        os.close(theirs)
    return connection


def _setns(descriptor: int) -> None:
    import ctypes  # noqa: PLC0415  os.setns came with Python 3.12

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def test_a_listening_server_accepts_again_and_its_open_connection_is_closed_not_fatal(
    stack: Stack, workload: Workload
) -> None:
    command = workload("server.py", "9000")
    first = stack.run("server", *command)
    established = until(lambda: _try(lambda: connect(first, 9000)), saying="the server accepts")
    assert established.recv(100) == b"1\n"
    second = again(stack, first, *command)
    established.close()
    with until(lambda: _try(lambda: connect(second, 9000)), saying="the restored server accepts") as connection:
        assert connection.recv(100) == b"2\n"
    second.stop()


def _try(attempt: Callable[[], socket.socket]) -> socket.socket | None:
    try:
        return attempt()
    except OSError:
        return None


def test_multiprocessing_with_semaphores_and_shared_memory_goes_on(stack: Stack, workload: Workload) -> None:
    command = workload("shared.py", "/shared")
    first = stack.run("shared", *command)
    before = len(first.until_lines("/shared", 20))
    second = again(stack, first, *command)
    record = second.until_lines("/shared", before + 20)
    second.stop()
    assert_counts(record)
    for line in record:
        issued, left, right = map(int, line.split())
        assert left == right
        assert left <= issued
    assert int(record[-1].split()[1]) > before


LAYER = """
mkdir -p /made/deep && echo new > /made/deep/file && ln /made/deep/file /made/hard && ln -s deep/file /made/soft
echo changed >> /etc/issue && rm /etc/motd 2>/dev/null; rm -rf /etc/apt && mkdir /etc/apt && echo only > /etc/apt/mine
cp /bin/true /made/suid && chown 1:2 /made/suid && chmod 4755 /made/suid && chmod 0666 /made/deep/file && chmod 1777 /made/deep
chown 3:4 / && chmod 1711 /
i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done
"""


def test_the_writable_layer_is_as_it_was(stack: Stack) -> None:
    command = ["sh", "-c", LAYER]
    first = stack.run("layer", *command)
    before = len(first.until_lines("/count", 5))
    second = again(stack, first, *command)
    record = second.until_lines("/count", before + 5)
    root = second.root
    assert_counts(record)
    own = root.stat()
    assert (own.st_mode & 0o7777, own.st_uid, own.st_gid) == (0o1711, 3, 4)
    assert (root / "made/deep/file").read_text() == "new\n"
    assert (root / "made/hard").stat().st_ino == (root / "made/deep/file").stat().st_ino
    assert (root / "made/soft").readlink() == Path("deep/file")
    assert (root / "made/deep/file").stat().st_mode & 0o7777 == 0o666
    assert (root / "made/deep").stat().st_mode & 0o7777 == 0o1777
    suid = (root / "made/suid").stat()
    assert (suid.st_mode & 0o7777, suid.st_uid, suid.st_gid) == (0o4755, 1, 2)
    assert (root / "etc/issue").read_text().endswith("changed\n")
    assert not (root / "etc/motd").exists()
    assert [entry.name for entry in (root / "etc/apt").iterdir()] == ["mine"]
    second.stop()


def test_a_restored_container_can_be_checkpointed_and_restored_again(stack: Stack) -> None:
    command = ["sh", "-c", COUNT]
    run = stack.run("again", *command)
    expected = 10
    for _ in range(3):
        record = run.until_lines("/count", expected)
        assert_counts(record)
        run = again(stack, run, *command)
        expected = len(record) + 10
    record = run.until_lines("/count", expected)
    run.stop()
    assert_counts(record)


def test_a_checkpoint_leaves_the_container_running_and_a_lost_container_goes_on_from_it(stack: Stack) -> None:
    command = ["sh", "-c", COUNT]
    first = stack.run("kept", *command)
    first.until_lines("/count", 10)
    stack.cli("checkpoint", "kept")
    at_checkpoint = len(first.lines("/count"))
    assert len(first.until_lines("/count", at_checkpoint + 10)) > at_checkpoint
    os.kill(first.init_pid(), 9)
    first.wait()
    second = stack.run("kept", *command)
    assert restored(stack, second)
    record = second.until_lines("/count", at_checkpoint + 20)
    second.stop()
    assert_counts(record)


def test_two_ids_at_once_do_not_mix(stack: Stack) -> None:
    scripts = {name: ["sh", "-c", f"echo {name} > /name; {COUNT}"] for name in ("left", "right")}
    first = {name: stack.run(name, *script) for name, script in scripts.items()}
    for run in first.values():
        run.until_lines("/count", 10)
    for run in first.values():
        run.process.terminate()
    before = {name: len(lines(run.root / "count")) for name, run in first.items()}
    for run in first.values():
        run.wait()
    second = {name: stack.run(name, *script) for name, script in scripts.items()}
    for name, run in second.items():
        assert_counts(run.until_lines("/count", before[name] + 5))
        assert run.lines("/name") == [name]
        run.stop()


def test_the_same_id_started_twice_makes_the_second_the_heir_and_ignores_the_firsts_late_dump(stack: Stack) -> None:
    command = ["sh", "-c", COUNT]
    first = stack.run("twice", *command)
    first.until_lines("/count", 10)
    stack.cli("checkpoint", "twice")
    second = stack.run("twice", *command)
    assert restored(stack, second)
    heir = len(second.until_lines("/count", 40))
    first.stop()
    until(lambda: "snapshot.superseded" in stack.types("twice"), saying="the first one's late dump is superseded")
    second.stop()
    third = stack.run("twice", *command)
    record = third.until_lines("/count", heir + 10)
    third.stop()
    assert_counts(record)
    assert third.container["incarnation"] == 3


def test_an_exec_session_neither_hinders_a_dump_nor_travels(stack: Stack) -> None:
    first = stack.run("session", "sh", "-c", COUNT)
    before = len(first.until_lines("/count", 5))
    session = subprocess.Popen(
        ["runc", "--root", stack.runc_root, "exec", first.container["container_id"], "sleep", "4321"],
        stdin=subprocess.DEVNULL,
    )
    until(lambda: sessions(first), saying="the session runs")
    stack.cli("checkpoint", "session")
    assert session.poll() is None
    assert sessions(first)
    before = len(first.until_lines("/count", before + 5))
    second = again(stack, first, "sh", "-c", COUNT)
    assert session.wait(timeout=20) == 128 + signal.SIGKILL
    record = second.until_lines("/count", before + 5)
    assert not sessions(second)
    second.stop()
    assert_counts(record)


def sessions(run: Run) -> list[str]:
    """The exec sessions among a container's processes."""
    cgroup = next(
        line.split(":")[2] for line in Path(f"/proc/{run.init_pid()}/cgroup").read_text().splitlines()
        if ":freezer:" in line or line.startswith("0::")
    )  # fmt: skip
    listed = subprocess.run(["ps", "-eo", "cgroup:200,args"], check=True, capture_output=True, text=True, timeout=20)
    return [line for line in listed.stdout.splitlines() if cgroup in line and line.endswith("sleep 4321")]


def test_an_exit_code_is_the_containers(stack: Stack) -> None:
    code, out, _ = _ended(stack, "code", "sh", "-c", "echo said; exit 7")
    assert (code, out) == (7, "said\n")


def _ended(stack: Stack, checkpoint_id: str, *command: str) -> tuple[int, str, str]:
    process = stack.popen_run(checkpoint_id, *command)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_job_control_stop_survives_the_restore(stack: Stack) -> None:
    script = "sleep 1000 & kill -STOP $!; echo $! > /stopped; " + COUNT
    first = stack.run("stopped", "sh", "-c", script)
    first.until_lines("/count", 5)
    second = again(stack, first, "sh", "-c", script)
    second.until_lines("/count", 20)
    pid = second.lines("/stopped")[0]
    state = subprocess.run(
        ["nsenter", "-t", str(second.init_pid()), "-p", "-m", "grep", "^State", f"/proc/{pid}/status"],
        check=True, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    second.stop()
    assert "T (stopped)" in state.stdout


def test_a_bind_mount_is_reattached_never_copied(stack: Stack, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "outside").write_text("before\n")
    options = ("--mount", f"type=bind,src={shared},dst=/data")
    script = "i=0; while :; do i=$((i+1)); echo $i >> /data/count; sleep 0.05; done"
    first = stack.run("bind", "sh", "-c", script, options=options)
    until(lambda: len(lines(shared / "count")) >= 10)
    first.stop()
    (shared / "outside").write_text("after\n")
    before = len(lines(shared / "count"))
    second = stack.run("bind", "sh", "-c", script, options=options)
    until(lambda: len(lines(shared / "count")) >= before + 10)
    second.stop()
    assert_counts(lines(shared / "count"))
    assert (shared / "outside").read_text() == "after\n"


def test_a_training_run_that_was_interrupted_ends_as_the_uninterrupted_one(stack: Stack, workload: Workload) -> None:
    """Deterministic floating-point training: the final weights are equal, digit for digit."""
    command = workload("train.py", "/result", "400")
    uninterrupted = subprocess.run(
        [command[0], command[1], "-", "400"], check=True, capture_output=True, text=True, timeout=60
    )
    first = stack.run("train", *command)
    time.sleep(1)
    second = again(stack, first, *command)
    code, out, _ = second.wait()
    assert (code, out) == (0, uninterrupted.stdout)
