"""CRIU's logs of dumps and restores that failed: the newest ones are kept, where a person can find them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.capture.criu import work_folders
from nodeworker.settings import Settings
from woodfrog.protocol.ids import SnapshotId

_LOGS_KEPT: Final = 40


def keep_log(settings: Settings, log: Path, snapshot_id: SnapshotId) -> None:
    """Keep CRIU's log of a dump that failed, and the last ones before it, where a person can find it."""
    with suppress(OSError):
        settings.logs.mkdir(exist_ok=True, mode=0o700)
        log.rename(settings.logs / f"{snapshot_id}.{log.name}")
        drop_old_logs(settings)


def drop_old_logs(settings: Settings) -> None:
    """Keep the newest logs only. Those of restores lie in folders of their own."""
    with suppress(OSError):
        for old in sorted(settings.logs.iterdir(), key=lambda path: path.stat().st_mtime)[:-_LOGS_KEPT]:
            if old.is_dir():
                work_folders.remove(old)
            else:
                old.unlink()
