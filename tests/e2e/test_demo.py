"""A demonstration that fails, at whatever step: it says what failed, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_runtime import chosen_criu
from support.stack import WOODFROG, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

UP, COUNTS, STOPPED = "are up", "a container counts", "the stop signal took"


class Demo:
    """One `woodfrog demo` in a folder of its own, with a CRIU that fails from a moment on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failing = folder / "failing"
        criu = folder / "criu"
        criu.write_text(
            f'#!/bin/sh\n[ ! -e {self.failing} ] || case "$*" in *swrk*) exit 7 ;; esac\nexec {chosen_criu()} "$@"\n'
        )
        criu.chmod(0o755)
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", WOODFROG, "demo"],  # a shell's background job ignores it, and so do its children
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "WOODFROG_CRIU": str(criu), "TMPDIR": str(folder), "WOODFROG_DEMO_STEP_SECONDS": "20"},
        )  # fmt: skip

    def until(self, step: str) -> None:
        """Read on until a step was seen."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if step in line:
                return
        raise AssertionError(self.process.communicate())

    def end(self) -> str:
        """Wait for its end, and return what it said of it."""
        _, err = self.process.communicate(timeout=100)
        return err

    def left(self) -> list[str]:
        """What is left of it: files, mounts, and processes that know its folder."""
        found = [str(path) for path in self.folder.glob("woodfrog-demo-*")]
        found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line]
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.folder) in words and (process / "stat").exists():
                    found.append(f"{process.name}: {words[:200]!r}")
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path)
    yield made
    if made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGTERM)
        made.process.communicate(timeout=100)


def test_a_dump_that_fails_is_named_and_nothing_is_left(demo: Demo) -> None:
    demo.until(COUNTS)
    demo.failing.touch()
    said = demo.end()
    assert demo.process.returncode == 1
    assert "(demo-failed)" in said
    assert "snapshot.dump-failed: " in said
    until(lambda: not demo.left(), 10, saying=f"nothing is left: {demo.left()}")


def test_a_restore_that_fails_is_named_and_nothing_is_left(demo: Demo) -> None:
    demo.until(STOPPED)
    demo.failing.touch()
    said = demo.end()
    assert demo.process.returncode == 1
    assert "(demo-failed)" in said
    assert "incarnation.restore-failed: " in said
    until(lambda: not demo.left(), 10, saying=f"nothing is left: {demo.left()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [UP, STOPPED])
def test_one_that_is_interrupted_leaves_nothing(demo: Demo, number: signal.Signals, step: str) -> None:
    demo.until(step)
    demo.process.send_signal(number)
    demo.end()
    assert demo.process.returncode != 0
    until(lambda: not demo.left(), 10, saying=f"nothing is left: {demo.left()}")
