"""Who may read the log: its owner's files, and on PostgreSQL the roles."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from controlplane.log.admin import roles
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from controlplane.log.file_permissions import keep_files_private, keep_private

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def loose() -> Any:
    """The usual umask of a service."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def loosen(folder: Path) -> None:
    """Let everybody read, as an earlier version did."""
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)


async def put(url: str) -> EventLog:
    await upgrade(url)
    log = await EventLog.open(url)
    await log.take_lead()
    return log


async def test_a_log_that_is_made_is_its_owners_alone(tmp_path: Path, loose: None) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    log = await put(f"sqlite+aiosqlite:///{folder}/log.db")
    found = modes(folder)
    assert {"log.db", "log.db-wal", "log.db-shm"} <= set(found)
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await log.close()


async def test_one_that_others_could_read_is_tightened_at_start(tmp_path: Path, loose: None) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    log = await put(url)
    loosen(tmp_path)
    again = await put(url)
    assert set(modes(tmp_path).values()) == {0o600}
    assert mode_of(tmp_path) == 0o700
    await again.close()
    await log.close()


def test_a_folder_of_other_things_and_what_a_link_leads_to_are_left_alone(tmp_path: Path, loose: None) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "other").write_text("")
    (shared / "log.db-wal").symlink_to(shared / "other")
    keep_private(shared / "log.db")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert modes(shared)["other"] == 0o644
    assert modes(shared)["log.db"] == 0o600


def test_files_of_the_archive_are_tightened_too(tmp_path: Path, loose: None) -> None:
    (tmp_path / "segment").write_text("")
    (tmp_path / "other").write_text("")
    keep_files_private(tmp_path, ["segment", "missing"])
    assert modes(tmp_path) == {"segment": 0o600, "other": 0o644}


def test_nobody_may_create_in_the_schema_of_the_log() -> None:
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in list(roles.statements())
