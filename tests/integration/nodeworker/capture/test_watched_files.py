"""Watched files of a root file system whose inode numbers do not say which file is meant, with a real overlay."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture import watches
from woodfrog.protocol.failures import FailureError

pytestmark = [pytest.mark.root, pytest.mark.timeout(30)]

WATCH = """
import ctypes, os, sys
os.chroot(sys.argv[1])
os.chdir("/")
libc = ctypes.CDLL(None)
number = libc.inotify_init1(0)
assert libc.inotify_add_watch(number, b"/work/file", 0xFFF) > 0
print("watching", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["one file system", "two file systems"])
def watcher(request: pytest.FixtureRequest) -> Iterator[tuple[int, bool]]:
    """A process that watches ``/work/file`` of its root, an overlay; and whether its layers lie on one file system."""
    alone = request.param == "one file system"
    with tempfile.TemporaryDirectory(prefix="wf-", dir="/var/tmp") as folder:
        base = Path(folder)
        script = f"""
            set -e
            mkdir {base}/lower {base}/top {base}/root
            [ {int(alone)} = 1 ] || mount -t tmpfs tmpfs {base}/top
            mkdir {base}/top/upper {base}/top/work {base}/lower/work
            echo x >{base}/lower/work/file
            mount -t overlay overlay -o lowerdir={base}/lower,upperdir={base}/top/upper,workdir={base}/top/work {base}/root
            exec "$@"
        """
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", WATCH, f"{base}/root"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "watching\n"
            yield process.pid, alone
            process.kill()


def test_a_watch_is_found_or_refused_but_never_taken_for_another(watcher: tuple[int, bool]) -> None:
    pid, alone = watcher
    if alone:
        assert list(watches.find(watches.watchers([pid]), [pid], pid).values()) == ["/work/file"]
    else:
        with pytest.raises(FailureError, match="watch-not-found"):
            watches.find(watches.watchers([pid]), [pid], pid)
