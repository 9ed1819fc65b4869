"""A full disk is said to be one, costs nothing that was recorded, and passes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.logstory import opened

from controlplane.log import EventLog, LogFullError
from controlplane.log.admin.migrate import upgrade

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


async def test_a_full_disk_refuses_events_with_advice_and_the_log_goes_on_when_there_is_space(small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'log.db'}"
    await upgrade(url)
    log = await EventLog.open(url)
    try:
        epoch = await log.take_lead()
        await log.append([opened("first")], epoch=epoch)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(2 << 20))

        async def append_much() -> None:
            for number in range(1000):
                await log.append([opened(f"more-{number}-{part}") for part in range(20)], epoch=epoch)

        with pytest.raises(LogFullError) as refusal:
            await append_much()
        assert refusal.value.failure.code == "log-disk-full"
        kept = await log.head()
        assert kept % 20 == 1
        filler.unlink()
        recorded = await log.append([opened("after")], epoch=epoch)
        assert recorded[0].position == kept + 1
        assert (await log.verify()).sound
    finally:
        await log.close()
