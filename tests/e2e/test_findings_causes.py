"""A restore that fails for a reason of its place names what is in the way, and is tried again once that is gone."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
from support.stack import Run, Stack

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

COUNT = textwrap.dedent("""
    import time
    count = 0
    while True:
        count += 1
        with open("/count", "a") as file:
            print(count, file=file)
        time.sleep(0.05)
""")
HOLDS = "import os\nheld = os.open('/v/{name}', os.O_RDWR | os.O_APPEND)\n"
COMMAND = (sys.executable, "-c")


def left(stack: Stack, checkpoint_id: str, program: str, *options: str) -> int:
    """Leave a snapshot of a program that counts; return how far it had counted, at least."""
    run = stack.run(checkpoint_id, *COMMAND, program + COUNT, options=options)
    counted = len(run.until_lines("/count", 3))
    run.stop()
    stack.until_stored(checkpoint_id)
    return counted


def refused(stack: Stack, checkpoint_id: str, *options: str) -> tuple[str, str]:
    """Start it where it cannot be restored; return code and cause of the failure."""
    start = stack.popen_run(checkpoint_id, "true", options=(*options, "--require-restore"))
    _, said = start.communicate(timeout=60)
    assert start.returncode == 125
    assert "(restore-required)" in said
    (failed,) = [
        event["data"] for event in stack.history(checkpoint_id) if event["type"] == "incarnation.restore-failed"
    ]
    return failed["failure"]["code"], failed["failure"]["cause"]


def goes_on(run: Run, counted: int) -> None:
    assert run.container["restored_from"] is not None
    lines = run.until_lines("/count", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    os.kill(run.init_pid(), 9)
    run.wait()


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_what_was_taken_from_a_volume_and_is_back_does_not_bar_the_snapshot_and_is_named(
    stack: Stack, tmp_path: Path, kind: str
) -> None:
    held = tmp_path / kind
    held.touch() if kind == "file" else os.mkfifo(held)
    options = ("--mount", f"{tmp_path}:/v")
    counted = left(stack, f"gone-{kind}", HOLDS.format(name=kind), *options)
    held.rename(tmp_path / "elsewhere")
    code, cause = refused(stack, f"gone-{kind}", *options)
    assert code == "file-missing"
    assert kind in cause
    (tmp_path / "elsewhere").rename(held)
    goes_on(stack.run(f"gone-{kind}", "true", options=options), counted)
