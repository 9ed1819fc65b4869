"""What was dumped without a complaint and could not be restored, or came back wrong, until its images were mended."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = "i=0; while :; do i=$((i+1)); echo $i $(cat /v/said 2>/dev/null) >> /count; sleep 0.05; done"
TICK = textwrap.dedent("""
    import ctypes, os, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(1, 0)
    spec = struct.pack("qqqq", 0, int(sys.argv[1]), 0, int(sys.argv[1]))
    assert libc.timerfd_settime(fd, 0, spec, None) == 0
    count = 0
    while True:
        os.read(fd, 8)
        count += 1
        if count % 20 == 0:
            with open("/count", "a") as file:
                print(count, file=file)
""")


def stopped(stack: Stack, run: Run, checkpoint_id: str) -> int:
    """Stop a container with its final dump; return how far it had counted."""
    stored = stack.types(checkpoint_id).count("snapshot.stored")
    counted = len(run.lines("/count"))
    run.stop()
    until(lambda: stack.types(checkpoint_id).count("snapshot.stored") > stored, saying="it is stored")
    return counted


def goes_on(run: Run, counted: int) -> None:
    """The count went on without a gap, in a restored container."""
    assert run.container["restored_from"] is not None
    lines = run.until_lines("/count", counted + 3)
    numbers = [int(line.split()[0]) for line in lines]
    step = numbers[0]
    assert numbers == list(range(step, step * (len(numbers) + 1), step))


def test_what_an_exec_session_left_in_a_restored_container_travels_on_with_it(stack: Stack) -> None:
    run = stack.run("left", "sh", "-c", COUNT)
    run.until_lines("/count", 3)
    stopped(stack, run, "left")
    restored = stack.run("left", "sh", "-c", COUNT)
    container = str(restored.container["container_id"])
    subprocess.run(
        ["runc", "--root", stack.runc_root, "exec", "-d", container, "sh", "-c", "(exec sleep 98765 >/dev/null 2>&1 &)"],
        check=True, timeout=30,
    )  # fmt: skip
    until(lambda: "98765" in processes(restored), saying="the daemon runs")
    counted = stopped(stack, restored, "left")
    again = stack.run("left", "sh", "-c", COUNT)
    goes_on(again, counted)
    assert "98765" in processes(again)
    again.stop()


def processes(run: Run) -> str:
    """The command lines of all processes in a container's PID namespace."""
    namespace = Path(f"/proc/{run.init_pid()}/ns/pid").readlink()
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "ns/pid").readlink() == namespace:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return "\n".join(found)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_bound_source_that_was_replaced_does_not_spoil_later_snapshots(
    stack: Stack, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "source"

    def put(text: str) -> None:
        if kind == "file":
            fresh = tmp_path / "fresh"
            fresh.write_text(text)
            fresh.rename(source)
            return
        if source.exists():
            source.rename(tmp_path / "old")
            (tmp_path / "old" / "said").unlink()
            (tmp_path / "old").rmdir()
        source.mkdir()
        (source / "said").write_text(text)

    put("old")
    mount = f"{source}:/v/said" if kind == "file" else f"{source}:/v"
    run = stack.run(f"replaced-{kind}", "sh", "-c", COUNT, options=("--mount", mount))
    run.until_lines("/count", 3)
    put("new")
    counted = stopped(stack, run, f"replaced-{kind}")
    again = stack.run(f"replaced-{kind}", "sh", "-c", COUNT, options=("--mount", mount))
    goes_on(again, counted)
    assert again.lines("/count")[-1].endswith("new")
    assert "new" in (source if kind == "file" else source / "said").read_text(), "the node's own file is untouched"
    again.stop()


@pytest.mark.parametrize("nanoseconds", [1_000_000, 10_000_000], ids=["1ms", "10ms"])
def test_periodic_timers_go_on_ticking_through_four_generations(stack: Stack, nanoseconds: int) -> None:
    name, command = f"timer-{nanoseconds}", (sys.executable, "-c", TICK, str(nanoseconds))
    run = stack.run(name, *command)
    run.until_lines("/count", 3)
    for _ in range(4):
        counted = stopped(stack, run, name)
        run = stack.run(name, *command)
        goes_on(run, counted)
    run.stop()


PEERS = textwrap.dedent("""
    import os, socket, sys, time
    kind = getattr(socket, sys.argv[1])
    listens, told = os.pipe()
    if os.fork() == 0:
        server = socket.socket(socket.AF_UNIX, kind)
        server.bind("/server")
        if kind != socket.SOCK_DGRAM:
            server.listen()
        os.write(told, b"x")
        while not os.path.exists("/go"):
            time.sleep(0.05)
        taken = server.accept()[0] if kind != socket.SOCK_DGRAM else server
        while True:
            with open("/heard", "ab") as file:
                file.write(taken.recv(8) + b"\\n")
    os.read(listens, 1)
    client = socket.socket(socket.AF_UNIX, kind)
    client.connect("/server")
    if "early" in sys.argv:
        client.send(b"before 1")
    count = 0
    while True:
        count += 1
        with open("/count", "a") as file:
            print(count, file=file)
        if os.path.exists("/go"):
            client.send(b"after  %d" % ("early" in sys.argv))
        time.sleep(0.05)
""")


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"])
def test_a_socket_that_is_connected_to_a_childs_goes_on_with_what_was_sent(stack: Stack, kind: str) -> None:
    early = ("early",) if kind == "SOCK_DGRAM" else ()
    name, command = f"peer-{kind[5:].lower()}", (sys.executable, "-c", PEERS, kind, *early)
    run = stack.run(name, *command)
    run.until_lines("/count", 3)
    counted = stopped(stack, run, name)
    again = stack.run(name, *command)
    goes_on(again, counted)
    (again.root / "go").touch()
    heard = again.until_lines("/heard", 3)
    assert heard[:2] == (["before 1", "after  1"] if early else ["after  0", "after  0"])
    again.stop()


def test_what_was_sent_to_who_has_not_accepted_yet_is_named_and_the_next_checkpoint_succeeds(stack: Stack) -> None:
    run = stack.run("early", sys.executable, "-c", PEERS, "SOCK_STREAM", "early")
    run.until_lines("/count", 3)
    said = stack.cli("checkpoint", "early", check=False).stderr
    assert "(in-flight-connection)" in said
    counted = len(run.lines("/count"))
    run.until_lines("/count", counted + 3)
    (run.root / "go").touch()
    run.until_lines("/heard", 1)
    assert stack.cli("checkpoint", "early").stdout.strip()
    counted = stopped(stack, run, "early")
    again = stack.run("early", sys.executable, "-c", PEERS, "SOCK_STREAM", "early")
    goes_on(again, counted)
    again.stop()


FORKS = textwrap.dedent("""
    import os, time
    held = os.urandom(30 << 20)
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(1e6)
    count = 0
    while True:
        count += 1
        with open("/count", "a") as file:
            print(count, file=file)
        time.sleep(0.05)
""")


def test_memory_that_forked_processes_share_is_stored_once_and_shared_again_after_a_restore(stack: Stack) -> None:
    run = stack.run("forks", sys.executable, "-c", FORKS)
    run.until_lines("/count", 3)
    counted = stopped(stack, run, "forks")
    (snapshot,) = stack.json("get", "snapshots", "forks")
    assert snapshot["stored_bytes"] < 45 << 20
    again = stack.run("forks", "true")
    goes_on(again, counted)
    first = again.init_pid()
    forked = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    assert len(forked) == 4
    held = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (first, *forked)]
    assert sum(int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) for text in held) < 60 << 10, "KiB"
    again.stop()
