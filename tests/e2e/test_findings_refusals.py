"""What cannot be captured is refused by name, and the program goes on: never "a reason that is not in the table"."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from support.stack import Run, Stack

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

BEGIN = "import ctypes, mmap, os, resource, select, socket, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
COUNT = textwrap.dedent("""
    count = 0
    while True:
        count += 1
        with open("/count", "a") as file:
            print(count, file=file)
        time.sleep(0.05)
""")
QUEUE = 'assert libc.mq_open(b"/findings", 66, 0o600, None) >= 0'
SECRET = """
held = libc.syscall(447, 0)
assert held >= 0
os.ftruncate(held, 4096)
secret = mmap.mmap(held, 4096)
secret[0] = 1
"""
EPOLL = """
watch = select.epoll()
one, other = socket.socketpair()
watch.register(one)
if os.fork():
    one.close()
else:
    time.sleep(1e6)
"""
PIPES = """
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
pipes = [os.pipe() for _ in range(1500)]
for _, end in pipes:
    os.write(end, b"x")
"""
NETLINK = """
heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
heard.bind((0, 0))
heard.setsockopt(270, 1, 33)
"""
VSOCK = "held = socket.socket(40, socket.SOCK_STREAM)"
USERS = """
if os.fork() == 0:
    assert libc.unshare(0x10000000) == 0
    time.sleep(1e6)
time.sleep(0.2)
"""
LOCKS = """
import fcntl
shared = os.open("/shared", os.O_RDWR | os.O_CREAT)
os.ftruncate(shared, 4096)
mapped = mmap.mmap(shared, 4096)
fcntl.lockf(shared, fcntl.LOCK_EX, 1, 120)
if os.fork() == 0:
    time.sleep(1e6)
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
"""
FAULTS = "assert libc.syscall(323, 1) >= 0"
CASES = {
    "a POSIX message queue": (QUEUE, "file-outside", "/findings"),
    "secret memory": (SECRET, "memfd-secret", "memfd_secret"),
    "an epoll instance shared after a fork": (EPOLL, "eventpoll", "epoll"),
    "1500 pipes with data": (PIPES, "too-many-pipes", "1024 pipes"),
    "a netlink socket of many groups": (NETLINK, "netlink", "netlink"),
    "a vsock": (VSOCK, "socket-family", "AF_VSOCK"),
    "a userfaultfd": (FAULTS, "kernel-handle", "holds a userfaultfd (descriptor"),
    "code in shared memory": (CODE, "code-shared", "executes code"),
    "a lock on a mapped file that two use": (LOCKS, "file-locks-lost", "/shared"),
    "a user namespace of its own": (USERS, "nested-namespaces", "namespaces"),
}


def end(run: Run) -> None:
    os.kill(run.init_pid(), 9)
    run.wait()


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_name_and_runs_on(stack: Stack, case: str) -> None:
    program, code, named = CASES[case]
    checkpoint_id = case.replace(" ", "-")
    run = stack.run(checkpoint_id, sys.executable, "-c", BEGIN + program + COUNT)
    run.until_lines("/count", 3)
    refused = stack.cli("checkpoint", checkpoint_id, check=False)
    assert refused.returncode == 1
    assert f"({code})" in refused.stderr
    assert named in refused.stderr
    counted = len(run.lines("/count"))
    lines = run.until_lines("/count", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
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
    end(run)
