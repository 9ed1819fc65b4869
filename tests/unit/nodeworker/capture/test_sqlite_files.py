"""SQLite knows a database by its number, and is told the new one: shown with a real SQLite in another process."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeworker.capture import sqlite_files
from woodfrog.protocol.manifest import DatabaseFile

pytestmark = pytest.mark.timeout(20)

PROGRAM = """
import os, shutil, sqlite3, sys
path, mode = sys.argv[1:]
first = sqlite3.connect(path, isolation_level=None, timeout=0)
first.execute(f"pragma journal_mode={mode}")
first.execute("create table t (n)")
first.execute("insert into t values (1)")
print("open", flush=True)
descriptor = int(sys.stdin.readline())
shutil.copy(path, path + ".new")
os.rename(path + ".new", path)
copy = os.open(path, os.O_RDWR | os.O_CLOEXEC)
os.dup2(copy, descriptor, inheritable=False)
os.close(copy)
print("restored", flush=True)
sys.stdin.readline()
try:
    first.execute("begin immediate")
    first.execute("insert into t values (2)")
    try:
        sqlite3.connect(path, timeout=0).execute("begin immediate")
        print("two write at once", flush=True)
    except sqlite3.OperationalError as problem:
        first.execute("commit")
        print(problem, first.execute("select count(*) from t").fetchone()[0], flush=True)
except sqlite3.OperationalError as problem:
    print(problem, flush=True)
"""
"""Puts a copy in the place of its own database, under the same descriptor, as a restore does."""


@contextmanager
def restored(folder: Path, mode: str) -> Iterator[tuple[subprocess.Popen[str], tuple[DatabaseFile, ...]]]:
    """Yield the program and what was recorded before its database became another file."""
    command = [sys.executable, "-c", PROGRAM, str(folder / "data.db"), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert said(program) == "open"
        recorded = sqlite_files.record([program.pid])
        assert len(recorded) == 1
        assert go_on(program, recorded[0].descriptor) == "restored"
        yield program, recorded
        program.communicate(timeout=10)


def go_on(program: subprocess.Popen[str], number: int = 0) -> str:
    assert program.stdin is not None
    program.stdin.write(f"{number}\n")
    program.stdin.flush()
    return said(program)


def said(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def test_a_database_that_became_another_file_cannot_be_written_to(tmp_path: Path) -> None:
    with restored(tmp_path, "delete") as (program, recorded):
        assert recorded[0].inode != (tmp_path / "data.db").stat().st_ino
        assert go_on(program) == "attempt to write a readonly database"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_told_its_new_number_it_is_written_to_and_a_newer_connection_shares_its_locks(
    tmp_path: Path, mode: str
) -> None:
    with restored(tmp_path, mode) as (program, recorded):
        sqlite_files.apply(recorded, [program.pid])
        assert go_on(program) == "database is locked 2"


def test_what_is_no_database_is_not_recorded_and_what_is_not_there_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("SQLite format 4")
    with (tmp_path / "text").open("r+"):
        assert sqlite_files.record([os.getpid()]) == ()
    sqlite_files.apply([DatabaseFile(1, 3, 4, 5), DatabaseFile(os.getpid(), 1 << 20, 1, 1 << 65)], [os.getpid()])


def test_of_memory_that_is_reserved_only_the_pages_that_were_touched_are_read() -> None:
    """A runtime with a heap of its own reserves gigabytes: read as a whole, they would cost minutes while nothing runs."""
    touched = range(0, 1 << 28, 2 << 20)
    with mmap.mmap(-1, 1 << 28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as heap:
        for place in touched:
            heap[place + 4096] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(heap))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            read = [
                len(data)
                for begin, data in sqlite_files._blocks(os.getpid(), memory.fileno())
                if start <= begin < start + len(heap)
            ]
    assert len(touched) <= len(read)
    assert sum(read) <= 4 * len(touched) * mmap.PAGESIZE
