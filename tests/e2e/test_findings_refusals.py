"""What cannot be captured is refused by name, the program runs on, and is captured once it has followed the advice."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

BEGIN = "import ctypes, mmap, os, resource, select, socket, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
BEGIN += "def end_other(): os.kill(other, 9); os.waitpid(other, 0)\n"
COUNT = textwrap.dedent("""
    count = 0
    while True:
        if os.path.exists("/follow"):
            follow()
            os.unlink("/follow")
        count += 1
        with open("/count", "a") as file:
            print(count, file=file)
        time.sleep(0.05)
""")
QUEUE = """
queue = libc.mq_open(b"/findings", 66, 0o600, None)
assert queue >= 0
follow = lambda: (libc.mq_unlink(b"/findings"), os.close(queue))
"""
SECRET = """
held = libc.syscall(447, 0)
assert held >= 0
os.ftruncate(held, 4096)
secret = mmap.mmap(held, 4096)
secret[0] = 1
follow = lambda: (secret.close(), os.close(held))
"""
EPOLL = """
watch = select.epoll()
one, other = socket.socketpair()
watch.register(one)
other = os.fork()
if other:
    one.close()
else:
    time.sleep(1e6)
follow = end_other
"""
PIPES = """
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
pipes = [os.pipe() for _ in range(1500)]
os.write(pipes[0][1], b"x")
follow = lambda: [os.close(end) for pipe in pipes[1000:] for end in pipe]
"""
NETLINK = """
heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
heard.bind((0, 0))
heard.setsockopt(270, 1, 33)
follow = heard.close
"""
VSOCK = """
held = socket.socket(40, socket.SOCK_STREAM)
follow = held.close
"""
USERS = """
other = os.fork()
if other == 0:
    assert libc.unshare(0x10000000) == 0
    time.sleep(1e6)
time.sleep(0.2)
follow = end_other
"""
LOCKS = """
import fcntl
shared = os.open("/shared", os.O_RDWR | os.O_CREAT)
os.ftruncate(shared, 4096)
mapped = mmap.mmap(shared, 4096)
fcntl.lockf(shared, fcntl.LOCK_EX, 1, 120)
other = os.fork()
if other == 0:
    time.sleep(1e6)
follow = end_other
"""
SCRATCH = """
scratch = open("/scratch", "w+b")
os.posix_fallocate(scratch.fileno(), 0, 600 << 20)
os.unlink("/scratch")
follow = scratch.close
"""
TWO_NAMES = """
held = open("/v/a", "w")
os.link("/v/a", "/v/b")
os.unlink("/v/a")
follow = held.close
"""
TOO_LONG = """
import shutil
for _ in range(25):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.chdir("/")
follow = lambda: shutil.rmtree("/" + "d" * 200)
"""
TRACE = """
import ctypes, sys, time
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0  # PTRACE_SEIZE
print("ready", flush=True)
time.sleep(1e6)
"""
CODE = """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert libc.mmap(0x100000, 4096, 5, 0x31, -1, 0) == 0x100000
follow = lambda: libc.munmap(ctypes.c_void_p(0x100000), 4096)
"""
FAULTS = """
faults = libc.syscall(323, 1)
assert faults >= 0
follow = lambda: os.close(faults)
"""
CASES = {
    "a POSIX message queue": (QUEUE, "posix-queue", "a POSIX message queue /findings"),
    "secret memory": (SECRET, "memfd-secret", "memfd_secret"),
    "an epoll instance shared after a fork": (EPOLL, "eventpoll", "epoll"),
    "1500 pipes": (PIPES, "too-many-pipes", "1024 pipes"),
    "a netlink socket of many groups": (NETLINK, "netlink", "netlink"),
    "a vsock": (VSOCK, "socket-family", "AF_VSOCK"),
    "a userfaultfd": (FAULTS, "kernel-handle", "holds a userfaultfd (descriptor"),
    "code in shared memory": (CODE, "code-shared", "executes code"),
    "a lock on a mapped file that two use": (LOCKS, "file-locks-lost", "/shared"),
    "a large deleted file": (SCRATCH, "ghost-file-too-large", "/scratch of 600 MiB; the limit is 512 MiB"),
    "a deleted name on a volume": (TWO_NAMES, "link-remap", "holds a deleted file /v/a of which another name is left"),
    "a path that is too long": (TOO_LONG, "capture-unfit", "A path of "),
    "a user namespace of its own": (USERS, "nested-namespaces", "namespaces"),
}


def captured(stack: Stack, run: Run) -> None:
    assert stack.json("checkpoint", run.id)["snapshot_id"] == stack.until_stored(run.id)[-1]


def end(run: Run) -> None:
    os.kill(run.init_pid(), 9)
    run.wait()


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_name_runs_on_and_is_captured_once_the_advice_is_followed(
    stack: Stack, tmp_path: Path, case: str
) -> None:
    program, code, named = CASES[case]
    checkpoint_id = case.replace(" ", "-")
    command = (sys.executable, "-c", BEGIN + program + COUNT)
    run = stack.run(checkpoint_id, *command, options=("--mount", f"{tmp_path}:/v"))
    run.until_lines("/count", 3)
    refused = stack.cli("checkpoint", checkpoint_id, check=False)
    assert refused.returncode == 1
    assert f"({code})" in refused.stderr
    assert named in refused.stderr
    counted = len(run.lines("/count"))
    lines = run.until_lines("/count", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    (run.root / "follow").touch()
    until(lambda: not (run.root / "follow").exists(), saying="the advice is followed")
    captured(stack, run)
    end(run)


def test_a_debugger_is_named_before_anything_stands_still(stack: Stack) -> None:
    run = stack.run("traced", sys.executable, "-c", BEGIN + COUNT)
    run.until_lines("/count", 3)
    tracer = subprocess.Popen([sys.executable, "-c", TRACE, str(run.init_pid())], stdout=subprocess.PIPE, text=True)
    try:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "ready\n"
        began = len(run.lines("/count"))
        refused = stack.cli("checkpoint", "traced", check=False)
        run.until_lines("/count", began + 3)
    finally:
        tracer.kill()
        tracer.communicate()
    assert refused.returncode == 1
    assert f"is traced by process {tracer.pid} (" in refused.stderr
    assert "(traced)" in refused.stderr
    captured(stack, run)
    end(run)
