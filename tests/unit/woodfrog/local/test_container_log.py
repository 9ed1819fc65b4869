"""The log of a detached container: every byte comes back, and never more than two files of it."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from woodfrog.local import container_log
from woodfrog.local.container_log import ContainerLog, id_of, prune
from woodfrog.protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(20)

FIRST, SECOND = ContainerId("c1"), ContainerId("c2")


@pytest.fixture
def log(tmp_path: Path) -> ContainerLog:
    return ContainerLog.of(tmp_path, "default", "count")


def text(log: ContainerLog, *, tail: int | None = None, container_id: str = "") -> bytes:
    return b"".join(entry.text for entry in log.read(tail, container_id))


@pytest.mark.parametrize(
    "written",
    [b"one\ntwo\n", b"no end", b"\n\n", b"\r50 %\r100 %\r\n", bytes(range(256)), b"prompt> ", b" F not ours\n P \n"],
)
def test_every_byte_comes_back_whatever_it_is(log: ContainerLog, written: bytes) -> None:
    with log.writer(FIRST) as writer:
        for index in range(len(written)):
            writer.write("stdout", written[index : index + 1])
        writer.write("stdout", written)
    assert text(log) == written + written


def test_containers_of_an_id_write_one_after_the_other_and_each_can_be_read_alone(
    log: ContainerLog, tmp_path: Path
) -> None:
    for container, words in ((FIRST, b"1\n2\n"), (SECOND, b"3\n")):
        with log.writer(container) as writer:
            writer.write("stdout", words)
    assert text(log) == b"1\n2\n3\n"
    assert text(log, container_id=SECOND) == b"3\n"
    assert text(log, tail=2) == b"2\n3\n"
    assert text(log, tail=0) == b""
    assert id_of(tmp_path, SECOND) == ("default", "count")
    assert id_of(tmp_path, "c3") is None


def test_a_tail_counts_lines_and_not_the_parts_that_they_came_in(log: ContainerLog) -> None:
    with log.writer(FIRST) as writer:
        for part in (b"a", b"b\n", b"c", b"d\n", b"> "):
            writer.write("stdout", part)
    assert text(log, tail=1) == b"> "
    assert text(log, tail=2) == b"cd\n> "


def test_it_is_never_larger_than_its_bound_and_keeps_the_newest(
    log: ContainerLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_log, "MOST_BYTES", 4000)
    with log.writer(FIRST) as one, log.writer(SECOND) as other:
        for number in range(500):
            (one, other)[number % 2].write("stdout", f"{number}\n".encode())
    files = [path for path in tmp_path.rglob("log*") if path.is_file()]
    assert len(files) == 2
    assert all(path.stat().st_size <= 4000 for path in files)
    lines = text(log).split()
    assert lines[-1] == b"499"
    assert lines == [str(number).encode() for number in range(500 - len(lines), 500)]


def test_following_goes_through_new_files_and_ends_with_the_last_writer(
    log: ContainerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_log, "MOST_BYTES", 2000)
    read: list[bytes] = []
    with log.writer(FIRST) as writer:
        writer.write("stdout", b"before\n")
        follower = threading.Thread(target=lambda: read.extend(each.text for each in log.read(follow=True)))
        follower.start()
        while not read:
            pass
        for number in range(60):
            writer.write("stdout", f"{number}\n".encode())
            while len(read) < number + 2:
                pass
        assert log.written()
    follower.join()
    assert read == [b"before\n", *(f"{number}\n".encode() for number in range(60))]
    assert not log.written()


def test_a_log_that_nothing_was_written_to_for_long_is_deleted_unless_a_container_has_it(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old, held, fresh = (ContainerLog.of(tmp_path, "default", name) for name in ("old", "held", "fresh"))
    for each in (old, fresh, held):
        with each.writer(FIRST) as writer:
            writer.write("stdout", b"1\n")
    for name in ("old", "held"):
        past = (now - timedelta(days=15)).timestamp()
        os.utime(tmp_path / "output" / "default" / name / "log", (past, past))
    with held.writer(FIRST):
        prune(tmp_path, now)
    assert (old.exists, held.exists, fresh.exists) == (False, True, True)


def test_a_full_disk_loses_lines_and_nothing_else(log: ContainerLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with log.writer(FIRST) as writer:
        writer.write("stdout", b"1\n")
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            writer.write("stdout", b"2\n")
        writer.write("stdout", b"3\n")
    assert text(log) == b"1\n3\n"
