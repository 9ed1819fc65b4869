"""A store in a directory needs no hard links, keeps nothing for every snapshot, and says early what it cannot do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from support.snapshots import KEY, SNAPSHOT, Place

from nodeworker.host import doctor
from nodeworker.host.install import Options
from nodeworker.store import encryption, exclusive_create
from nodeworker.store.encryption import SealedObjects
from nodeworker.store.object_store import DirectoryObjects
from woodfrog.protocol.ids import SnapshotId

pytestmark = pytest.mark.timeout(60)


def no_links(patch: pytest.MonkeyPatch) -> None:
    def refused(name: Path, partial: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(name))

    patch.setattr(Path, "hardlink_to", refused)


def neither_links_nor_renames(patch: pytest.MonkeyPatch) -> None:
    no_links(patch)
    patch.setattr(exclusive_create, "_renamed", lambda partial, name: False)


def links(_: pytest.MonkeyPatch) -> None:
    """As on most file systems."""


@pytest.fixture(params=[links, no_links, neither_links_nor_renames])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cast("Callable[[pytest.MonkeyPatch], None]", request.param)(monkeypatch)


@pytest.mark.usefixtures("file_system")
def test_an_object_gets_a_name_that_is_free_and_never_takes_one(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    first = objects.create("folder")
    first.write(b"first")
    first.commit("name", exclusive=True)
    second = objects.create("folder")
    second.write(b"second")
    with pytest.raises(FileExistsError):
        second.commit("name", exclusive=True)
    second.abort()
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "folder").iterdir()] == [("name", b"first")]


@pytest.mark.usefixtures("file_system")
def test_a_snapshot_is_stored_and_read(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("a", b"content")
    assert place.fetch(place.put()) == {"a": b"content"}


@pytest.mark.usefixtures("file_system")
def test_doctor_tries_what_a_store_needs_and_leaves_nothing(tmp_path: Path) -> None:
    found = doctor._store(cast("Options", None), {"WOODFROG_STORE_URL": tmp_path.as_uri(), "WOODFROG_STATE_DIR": "/s"})
    assert found.state == "ok", found
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_a_store_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(partial: Path, name: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("nodeworker.store.object_store.give_name", refused)
    found = doctor._store(cast("Options", None), {"WOODFROG_STORE_URL": tmp_path.as_uri(), "WOODFROG_STATE_DIR": "/s"})
    assert found.state == "failed"
    assert "Read-only" in found.found
    assert list(tmp_path.iterdir()) == []


def test_a_worker_remembers_few_folders_and_still_removes_what_was_in_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encryption, "_MOST_LISTED", 3)
    place = Place(tmp_path)
    place.write("a", b"content")
    objects = cast("SealedObjects", place.store._objects)
    for number in range(10):
        place.store.discard(KEY, SnapshotId(f"20261123T214501Z-{number:08}"))
        objects.names(f"{KEY}/20261123T214501Z-{number:08}")
        place.put()
    assert len(objects._listed) <= 3
    names = objects.names(f"{KEY}/{SNAPSHOT}")
    assert names
    for number in range(10):
        objects.names(f"other/{number}")
    for name in names:
        objects.remove(f"{KEY}/{SNAPSHOT}", name)
    assert objects.names(f"{KEY}/{SNAPSHOT}") == []
