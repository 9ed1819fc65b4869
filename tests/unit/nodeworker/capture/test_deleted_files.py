"""Deleted files that a snapshot could not bring back are found while their processes run."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture import deleted_files
from woodfrog.protocol.failures import Failure, FailureError

pytestmark = pytest.mark.timeout(20)

OWN = [os.getpid()]


def mount_of(path: Path) -> str:
    return str(next(each for each in (path, *path.parents) if os.path.ismount(each)))


@pytest.fixture(params=["open", "mapped"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file that this process holds, open or mapped."""
    path = tmp_path / "held"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 1 << 20)
    with mmap.mmap(descriptor, 4096):
        if request.param == "mapped":
            os.close(descriptor)
        yield path
    if request.param == "open":
        os.close(descriptor)


def refused(outside: set[str]) -> Failure:
    with pytest.raises(FailureError) as problem:
        deleted_files.refuse_unrestorable(OWN, outside)
    return problem.value.failure


def test_a_deleted_name_on_a_mount_that_does_not_travel_is_refused_while_another_name_is_left(held: Path) -> None:
    held.with_name("other").hardlink_to(held)
    deleted_files.refuse_unrestorable(OWN, {mount_of(held)})
    held.unlink()
    failure = refused({mount_of(held)})
    assert failure.code == "link-remap"
    assert f"holds a deleted file {held} of which another name is left" in failure.cause
    deleted_files.refuse_unrestorable(OWN, {"/v"})


def test_a_deleted_file_without_another_name_is_refused_if_it_is_larger_than_criu_takes(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deleted_files, "GHOST_LIMIT_BYTES", (1 << 20) - 1)
    deleted_files.refuse_unrestorable(OWN, {mount_of(held)})
    held.unlink()
    failure = refused(set())
    assert failure.code == "ghost-file-too-large"
    assert f"holds a deleted file {held} of 1 MiB; the limit is" in failure.cause
    monkeypatch.undo()
    deleted_files.refuse_unrestorable(OWN, {mount_of(held)})
