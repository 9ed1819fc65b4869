"""What came back wrong without a word: files on volumes that had changed meanwhile."""

from __future__ import annotations

import os
import sqlite3
import sys
import textwrap
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNTS = textwrap.dedent("""
    import time
    def count(step):
        number = 0
        while True:
            number += 1
            step(number)
            with open("/count", "a") as file:
                print(number, file=file)
            time.sleep(0.05)
""")
MAPS = """
import mmap, os
descriptor = os.open("/v/state", os.O_RDWR | os.O_CREAT)
os.ftruncate(descriptor, 4096)
state = mmap.mmap(descriptor, 4096)
os.close(descriptor)
def step(number): state[:8] = number.to_bytes(8, "little")
count(step)
"""
BASE = """
import sqlite3
base = sqlite3.connect("/v/base", isolation_level=None)
base.execute("create table if not exists rows (number integer primary key)")
base.execute("pragma cache_size=-64")
count(lambda number: base.execute("insert into rows default values"))
"""
APPENDS = """
log = open("/v/log", "a")
count(lambda number: (log.write(f"{number}\\n"), log.flush()))
"""
GROWS = """
log = open("/v/log", "w")
count(lambda number: (log.write(f"{number}\\n"), log.flush()))
"""
HOLDS_LATER = """
import os
held = []
def step(number):
    if not held and os.path.exists("/v/state"):
        held.append(os.open("/v/state", os.O_RDWR))
        open("/held", "w").close()
    if held:
        os.pwrite(held[0], number.to_bytes(8, "little"), 0)
count(step)
"""
READS = """
held = open("/v/settings")
count(lambda number: None)
"""


def begin(stack: Stack, checkpoint_id: str, volume: Path, program: str, *options: str) -> Run:
    command = (sys.executable, "-c", COUNTS + program)
    return stack.run(checkpoint_id, *command, options=("--mount", f"{volume}:/v", *options))


def dump(stack: Stack, run: Run) -> str:
    """Take a snapshot of a container that runs on, once it has counted; and wait until it has counted on."""
    run.until_lines("/count", 3)
    name = str(stack.json("checkpoint", run.id)["snapshot_id"])
    run.until_lines("/count", len(run.lines("/count")) + 3)
    return name


def kill(stack: Stack, run: Run) -> int:
    """Kill a container, as a node does that is lost; return how far it had counted."""
    ends = stack.types(run.id).count("container.ended")
    os.kill(run.init_pid(), 9)
    counted = len(run.lines("/count"))
    run.wait()
    until(lambda: stack.types(run.id).count("container.ended") > ends, saying="its end is recorded")
    return counted


def stop(stack: Stack, run: Run) -> int:
    """Stop a container with its final dump; return how far it had counted."""
    counted = len(run.until_lines("/count", 3))
    run.stop()
    stack.until_stored(run.id)
    return counted


def starts_cold(stack: Stack, run: Run, name: str, change: str) -> None:
    """It began from its image, and everybody who asks is told which file had changed, and how."""
    assert run.container["restored_from"] is None
    assert run.until_lines("/count", 2)[:2] == ["1", "2"]
    failed = [each for each in stack.history(run.id) if each["type"] == "incarnation.restore-failed"]
    assert [each["data"]["failure"]["code"] for each in failed] == ["volume-changed"], "once, and not again and again"
    why = stack.cli("why", run.id).stdout
    _, _, said = run.stop()
    for text in (why, said):
        assert f"files on volumes have changed since the snapshot: /v/{name} ({change}" in text


def goes_on(stack: Stack, run: Run, snapshot: str, counted: int) -> None:
    assert run.container["restored_from"] == snapshot
    lines = run.until_lines("/count", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]


def test_a_mapped_file_that_was_written_after_the_snapshot_is_not_joined_with_older_memory(
    stack: Stack, tmp_path: Path
) -> None:
    run = begin(stack, "maps", tmp_path, MAPS)
    dump(stack, run)
    kill(stack, run)
    starts_cold(stack, begin(stack, "maps", tmp_path, MAPS), "state", "written at 20")


def test_rows_that_were_committed_after_the_snapshot_are_not_lost(stack: Stack, tmp_path: Path) -> None:
    run = begin(stack, "base", tmp_path, BASE)
    dump(stack, run)
    counted = kill(stack, run)
    again = begin(stack, "base", tmp_path, BASE)
    starts_cold(stack, again, "base", "")
    base = sqlite3.connect(tmp_path / "base")
    numbers = [row[0] for row in base.execute("select number from rows")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > counted
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_log_that_is_only_appended_to_may_have_grown_and_that_is_said(stack: Stack, tmp_path: Path) -> None:
    run = begin(stack, "appends", tmp_path, APPENDS)
    snapshot = dump(stack, run)
    kill(stack, run)
    again = begin(stack, "appends", tmp_path, APPENDS)
    goes_on(stack, again, snapshot, 3)
    assert "only appends to have grown since the snapshot: /v/log by " in stack.cli("why", "appends").stdout
    again.stop()


def test_a_log_that_was_cut_is_a_file_that_changed(stack: Stack, tmp_path: Path) -> None:
    run = begin(stack, "cut", tmp_path, APPENDS)
    stop(stack, run)
    size = (tmp_path / "log").stat().st_size
    (tmp_path / "log").write_text("")
    starts_cold(stack, begin(stack, "cut", tmp_path, APPENDS), "log", f"{size} bytes at the dump, 0 now)")


def test_the_snapshot_before_is_used_if_it_fits_the_volume(stack: Stack, tmp_path: Path) -> None:
    run = begin(stack, "before", tmp_path, HOLDS_LATER)
    older = dump(stack, run)
    counted = len(run.lines("/count"))
    (tmp_path / "state").write_bytes(bytes(8))
    until((run.root / "held").exists, saying="it holds the file")
    newer = dump(stack, run)
    kill(stack, run)
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    (tmp_path / "state").write_bytes(b"another")
    again = begin(stack, "before", tmp_path, HOLDS_LATER)
    assert again.container["restored_from"] == older
    assert len(again.until_lines("/count", 3)) < counted + 1000
    assert f"newer {newer} skipped: files on volumes have changed since the snapshot: /v/state (" in again.stop()[2]


def test_who_ignores_changes_goes_on_from_a_file_that_has_grown(stack: Stack, tmp_path: Path) -> None:
    ignore = ("--env", "WOODFROG_VOLUME_CHANGES=ignore")
    run = begin(stack, "ignores", tmp_path, GROWS, *ignore)
    snapshot = dump(stack, run)
    kill(stack, run)
    again = begin(stack, "ignores", tmp_path, GROWS, *ignore)
    goes_on(stack, again, snapshot, 3)
    assert "which the container's owner ignores: /v/log (" in stack.cli("why", "ignores").stdout
    again.stop()


def test_a_file_that_is_only_read_and_was_written_meanwhile_is_noticed(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("one")
    stop(stack, begin(stack, "reads", tmp_path, READS))
    (tmp_path / "settings").write_text("two")
    starts_cold(stack, begin(stack, "reads", tmp_path, READS), "settings", "written at 20")


def test_a_copy_of_the_volume_with_the_times_of_its_files_is_the_volume(stack: Stack, tmp_path: Path) -> None:
    volume, copy = tmp_path / "volume", tmp_path / "copy"
    volume.mkdir()
    copy.mkdir()
    (volume / "settings").write_text("one")
    counted = stop(stack, begin(stack, "copied", volume, READS))
    status = (volume / "settings").stat()
    (copy / "settings").write_text("one")
    os.utime(copy / "settings", ns=(status.st_mtime_ns, status.st_mtime_ns))
    again = begin(stack, "copied", copy, READS)
    goes_on(stack, again, stack.until_stored("copied")[0], counted)
    again.stop()


def test_a_library_of_the_machine_that_was_upgraded_is_named(stack: Stack, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.write_text("one")
    program = f"held = open({str(library)!r})\ncount(lambda number: None)"
    command = (sys.executable, "-c", COUNTS + program)
    stop(stack, stack.run("upgraded", *command))
    library.write_text("another")
    again = stack.run("upgraded", *command)
    assert again.container["restored_from"] is None
    _, _, said = again.stop()
    assert f"differs from the one at the dump: {str(library).lstrip('/')} has bad size 7 (expect 3)" in said
