"""An older version beside this one, and before it: its journal, log, snapshots, runtime and messages go on being understood.

``versions/`` has the packages of an older version as they were installed, before most modules got other names.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import Run, Stack, running

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

VERSION = Path(__file__).parent / "versions/2026-11-30.tar.xz"
COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"]
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Or Python would look for packages in the working directory first."""
MIXED = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from woodfrog.local import dev
older, which = sys.argv.pop(1), sys.argv.pop(1)

class Mixed(dev.Part):
    def __init__(self, name, command, environment, log, on_start):
        if name in which.split("+"):
            environment = {**environment, "PYTHONPATH": older}
        super().__init__(name, command, environment, log, on_start)

dev.Part = Mixed
if "runtime" in which.split("+"):
    found = spec_from_file_location("older_install", Path(older) / "nodeworker/runtime/install.py")
    install = module_from_spec(found)
    found.loader.exec_module(install)
    dev.write_runtime = install.write_runtime
from woodfrog.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def older() -> Iterator[Path]:
    """The packages of the older version."""
    with tempfile.TemporaryDirectory(prefix="wf-") as path:
        with tarfile.open(VERSION) as archive:
            archive.extractall(path, filter="data")
        yield Path(path)


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        yield Path(path) / "s"


def counted(run: Run) -> list[int]:
    """What a container has counted so far, some more included, without a gap and from 1."""
    numbers = [int(line) for line in run.until_lines("/count", len(run.lines("/count")) + 3)]
    assert numbers == list(range(1, len(numbers) + 1))
    return numbers


def captured(stack: Stack, checkpoint_id: str) -> int:
    """Run a container, stop it with a final snapshot; return how far it had counted before."""
    run = stack.run(checkpoint_id, *COUNT)
    seen = len(counted(run))
    code, _, said = run.stop()
    assert code == 137, said
    assert "captured as" in said
    stack.until_stored(checkpoint_id)
    return seen


def resumed(stack: Stack, checkpoint_id: str) -> None:
    """Run it again: its count continues."""
    again = stack.run(checkpoint_id, *COUNT)
    assert again.container["restored_from"], stack.cli("why", checkpoint_id).stdout
    counted(again)
    again.stop()


def test_what_an_older_version_left_is_taken_over(older: Path, state: Path) -> None:
    """Its log, its journal, its store; a snapshot, and a container that outlives the version that started it."""
    before = {**SAFE_PATH, "PYTHONPATH": str(older)}
    with running(state, before, [sys.executable, "-m", "woodfrog.cli"]) as stack:
        seen = captured(stack, "stopped")
        outlives = stack.run("outlives", *COUNT)
        counted(outlives)
        stack.stop()
        later = Stack(state)
        later.start()
        try:
            later.cli("log", "verify")
            again = later.run("stopped", *COUNT)
            assert again.container["restored_from"]
            assert counted(again)[-1] > seen
            again.stop()
            so_far = counted(outlives)[-1]
            later.cli("stop", "outlives")
            outlives.wait()
            resumes = later.run("outlives", *COUNT)
            assert resumes.container["restored_from"]
            assert counted(resumes)[-1] > so_far
            resumes.stop()
        finally:
            later.close()


@pytest.mark.parametrize("which", ["nodeworker+runtime", "controlplane", "nodeworker", "runtime"])
def test_an_older_part_works_with_the_others(which: str, older: Path, state: Path) -> None:
    """During an upgrade: a node that is still the older one, a control plane that is, a runtime that nobody has replaced yet."""
    with running(state, SAFE_PATH, [sys.executable, "-c", MIXED, str(older), which]) as stack:
        captured(stack, "mixed")
        resumed(stack, "mixed")
        assert {"snapshot.stored", "container.started"} <= set(stack.types("mixed"))
        for part in ("nodeworker", "controlplane"):
            environment = Path(f"/proc/{stack.child(part)}/environ").read_bytes().split(b"\0")
            assert (f"PYTHONPATH={older}".encode() in environment) == (part in which.split("+")), part
        assert (str(older) in stack.runtime.read_text()) == ("runtime" in which)
