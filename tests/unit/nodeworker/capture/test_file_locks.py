"""Locks that CRIU would lose while somebody else uses the file are found; others hinder nobody."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeworker.capture.file_locks import refuse_lost
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(30)

PROGRAM = textwrap.dedent("""
    import fcntl, mmap, os, sys, time
    path, *does = sys.argv[1:]
    file = os.open(path, os.O_RDWR)
    if "maps" in does:
        mapped = mmap.mmap(file, 4096)
    if "locks" in does:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 120)
    if "flocks" in does:
        fcntl.flock(file, fcntl.LOCK_EX)
    print("ready", flush=True)
    sys.stdin.read()
""")
Runs = Callable[..., int]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def runs(file: Path) -> Iterator[Runs]:
    processes: list[subprocess.Popen[str]] = []

    def run(*does: str, path: Path = file) -> int:
        command = [sys.executable, "-S", "-c", PROGRAM, str(path), *does]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield run
    for process in processes:
        process.communicate()


@pytest.mark.parametrize("other", [(), ("maps",)])
def test_a_lock_on_a_mapped_file_that_another_process_uses_is_refused_by_name(
    file: Path, runs: Runs, other: tuple[str, ...]
) -> None:
    holder, user = runs("maps", "locks"), runs(*other)
    with pytest.raises(FailureError) as refused:
        refuse_lost((user, holder))
    assert refused.value.failure.code == "file-locks-lost"
    assert f"process {holder}" in refused.value.failure.cause
    assert f"process {user}" in refused.value.failure.cause
    assert str(file) in refused.value.failure.cause


def test_a_lock_hinders_nobody_as_long_as_its_holder_alone_uses_the_file(file: Path, runs: Runs) -> None:
    elsewhere = file.with_name("another")
    elsewhere.write_bytes(bytes(4096))
    refuse_lost((runs("maps", "locks"), runs("maps", "locks", path=elsewhere)))


def test_locks_that_stay_hinder_nobody(runs: Runs) -> None:
    refuse_lost((runs("locks"), runs("maps"), runs()))
    refuse_lost((runs("maps", "flocks"), runs("maps")))


def test_a_process_that_is_gone_says_nothing() -> None:
    refuse_lost((1 << 22, 1 << 22))
