"""POSIX message queues are found while their container runs, whether somebody holds them or not."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from nodeworker.capture import message_queues
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(20)

QUEUE = textwrap.dedent("""
    import ctypes, os, sys, tempfile
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000 | 0x08000000) == 0  # CLONE_NEWNS, CLONE_NEWIPC
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    assert libc.mount(b"mqueue", sys.argv[1].encode(), b"mqueue", 0, None) == 0
    queue = libc.mq_open(b"/unit", 66, 0o600, None)
    assert queue >= 0
    os.close(queue)
    print("there", flush=True)
    sys.stdin.readline()
    libc.mq_unlink(b"/unit")
    print("gone", flush=True)
    sys.stdin.readline()
""")


def test_a_queue_that_nobody_holds_is_refused_by_its_name_until_it_is_removed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("queues")
    command = [sys.executable, "-I", "-S", "-c", QUEUE, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "there\n"
        with pytest.raises(FailureError) as problem:
            message_queues.refuse(child.pid)
        assert problem.value.failure.code == "posix-queue"
        assert "a POSIX message queue /unit" in problem.value.failure.cause
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "gone\n"
        message_queues.refuse(child.pid)
        child.communicate("\n")
