"""What a killed CRIU left mounted where it worked is detached before anything there is removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.capture.criu import work_folders
from nodeworker.capture.criu.spool import Spool
from nodeworker.disk.criu_logs import drop_old_logs
from nodeworker.runtime import restore_process
from woodfrog.service import libc

pytestmark = pytest.mark.timeout(20)

MANY = 45


@pytest.fixture
def hierarchy(tmp_path: Path) -> Iterator[Path]:
    """Directories of the machine, one of them empty: what a hierarchy of cgroups is to rmdir(2)."""
    place = tmp_path / "hierarchy"
    (place / "empty").mkdir(parents=True)
    yield place
    for mount in work_folders.mounted_in(tmp_path):
        libc.unmount(mount, libc.MNT_DETACH)


def yard(folder: Path, hierarchy: Path) -> Path:
    """Leave in a folder what a killed CRIU leaves: a tmpfs, and in it the hierarchies."""
    yard = folder / ".criu.cgyard.x y"
    yard.mkdir(parents=True)
    libc.mount("none", yard, "tmpfs")
    for name in ("pids", "memory"):
        (yard / name).mkdir()
        libc.mount(hierarchy, yard / name, flags=libc.MS_BIND)
    return yard


def test_a_folder_goes_and_what_was_mounted_in_it_stays_as_it_was(tmp_path: Path, hierarchy: Path) -> None:
    yard(tmp_path / "work", hierarchy)
    work_folders.remove(tmp_path / "work")
    assert not (tmp_path / "work").exists()
    assert (hierarchy / "empty").is_dir()


def test_a_folder_in_which_something_stays_mounted_is_kept(
    tmp_path: Path, hierarchy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = yard(tmp_path / "work", hierarchy)

    def refuse(*_: object) -> None:
        raise PermissionError("not allowed")

    with monkeypatch.context() as patched:
        patched.setattr(libc, "unmount", refuse)
        work_folders.remove(tmp_path / "work")
    assert os.path.ismount(place)
    assert (hierarchy / "empty").is_dir()


def test_old_logs_and_spools_go_so(tmp_path: Path, hierarchy: Path) -> None:
    logs = tmp_path / "logs"
    for number in range(MANY):
        (logs / f"{number:02}.restore.c").mkdir(parents=True)
        os.utime(logs / f"{number:02}.restore.c", (number, number))
    yard(logs / "00.restore.c", hierarchy)
    os.utime(logs / "00.restore.c", (0, 0))
    settings: Any = SimpleNamespace(logs=logs)
    drop_old_logs(settings)
    assert len(list(logs.iterdir())) < MANY
    assert not (logs / "00.restore.c").exists()
    spool = Spool(tmp_path / "spool")
    spool.make()
    yard(spool.work, hierarchy)
    spool.remove()
    assert not spool.folder.exists()
    assert (hierarchy / "empty").is_dir()


def test_the_runtime_detaches_it_with_all_that_is_below(tmp_path: Path, hierarchy: Path) -> None:
    place = yard(tmp_path / "work", hierarchy)
    restore_process.detach_mounts(str(tmp_path / "work"))
    assert work_folders.mounted_in(tmp_path / "work") == []
    assert not place.exists()
    assert (hierarchy / "empty").is_dir()
    restore_process.detach_mounts("")
    restore_process.detach_mounts(str(tmp_path / "nowhere"))
