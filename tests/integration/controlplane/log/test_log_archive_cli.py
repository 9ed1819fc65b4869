"""``woodfrog log archive``, as people run it: beside a leader, killed anywhere, and read through afterwards by the other verbs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.archives import SEGMENT_EVENTS, loop_on
from support.databases import Database
from support.logstory import KEY, NODE_A, opened
from support.servers import ControlPlaneProcess, NatsServer

from controlplane.log import EventLog

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[4]
KILLED = -9
FAULTS = ("before-sync", "file-placed", "before-commit", "after-commit")


class Shell:
    """The command line on one database, with or without the archive's directory in its environment."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._environment = os.environ | {"WOODFROG_DATABASE_URL": database.url, "PYTHONPATH": str(ROOT)}
        self._folder = folder

    async def run(
        self, *words: str, archive: bool = True, fault: str | None = None, code: int = 0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        environment = self._environment | more
        if archive:
            environment["WOODFROG_LOG_ARCHIVE"] = str(self._folder)
        if fault is not None:
            environment["WOODFROG_FAULT"] = f"log.archive.{fault}=kill"
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "woodfrog.cli.main", *words],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    async def json(self, *words: str, archive: bool = True, code: int = 0) -> Any:
        return json.loads((await self.run(*words, "-o", "json", archive=archive, code=code)).stdout)

    async def archive(self, before: str = "100", *words: str) -> Any:
        return await self.json("log", "archive", "--before", before, "--segment-events", str(SEGMENT_EVENTS), *words)


@pytest.fixture
def shell(database: Database, folder: Path) -> Shell:
    return Shell(database, folder)


async def test_what_was_archived_is_proved_exported_and_looked_back_upon_as_before(
    storied: EventLog, shell: Shell, database: Database
) -> None:
    whole = (await shell.run("log", "export")).stdout
    history = await shell.json("history", KEY.id)
    then = str(history[9]["recorded_at"])
    chosen = await shell.json("choose", KEY.id, "--node", NODE_A, "--at", then)

    planned = await shell.archive("100", "--dry-run")
    assert [(one["first_position"], one["last_position"]) for one in planned] == [(1, 10), (11, 20), (21, 30)]
    assert database.sql("SELECT count(*) FROM events") == [(40,)]
    done = await shell.archive()
    assert [one["last_position"] for one in done] == [10, 20, 30]
    assert database.sql("SELECT min(position), count(*) FROM events") == [(31, 10)]
    assert await shell.archive() == []

    proof = await shell.json("log", "verify")
    assert (proof["sound"], proof["events"], proof["archived"], proof["whole"]) == (True, 40, 30, True)
    assert (await shell.run("log", "export")).stdout == whole
    assert await shell.json("history", KEY.id) == history
    assert await shell.json("choose", KEY.id, "--node", NODE_A, "--at", then) == chosen
    await shell.run("log", "rebuild")
    assert (await shell.json("log", "verify"))["sound"]


async def test_without_the_files_each_verb_says_what_it_cannot_see(storied: EventLog, shell: Shell) -> None:
    await shell.archive()
    proof = await shell.json("log", "verify", archive=False)
    assert (proof["sound"], proof["events"], proof["archived"], proof["whole"]) == (True, 10, 30, False)
    assert "30 older events are archived" in (await shell.run("log", "verify", archive=False)).stdout
    for words in (
        ("log", "export"),
        ("log", "rebuild"),
        ("history", KEY.id),
        ("choose", KEY.id, "--node", NODE_A),
    ):
        told = await shell.run(*words, archive=False, code=1)
        assert "(log-archived)" in told.stderr
        assert "--archive" in told.stderr
    assert len((await shell.run("log", "export", "--from", "31", archive=False)).stdout.splitlines()) == 10
    assert len(await shell.json("history", "later", archive=False)) == 8


async def test_a_file_that_was_changed_or_lost_is_found_out_by_verify(
    storied: EventLog, shell: Shell, folder: Path
) -> None:
    done = await shell.archive()
    file = folder / done[1]["file"]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    proof = await shell.json("log", "verify", code=1)
    assert "not the one that was archived" in proof["problems"][0]["what"]
    assert "(archive-unusable)" in (await shell.run("log", "export", code=1)).stderr
    file.unlink()
    assert not (await shell.json("log", "verify", code=1))["sound"]


async def test_only_whole_segments_before_a_moment_or_a_position_go(storied: EventLog, shell: Shell) -> None:
    assert await shell.archive("10") == []
    assert [one["last_position"] for one in await shell.archive("11")] == [10]
    rows = [json.loads(line) for line in (await shell.run("log", "export")).stdout.splitlines()]
    moment = datetime.fromisoformat(rows[19]["recorded_at"])
    assert await shell.archive(moment.isoformat()) == []
    later = (moment + timedelta(microseconds=1)).isoformat()
    last = [one["last_position"] for one in await shell.archive(later)]
    assert last[0] == 20


async def test_it_is_asked_for_rightly_or_refused_with_nothing_changed(
    storied: EventLog, shell: Shell, database: Database
) -> None:
    await shell.run("log", "archive", "--before", "yesterday", code=2)
    await shell.run("log", "archive", "--before", "30", archive=False, code=2)
    await shell.run("log", "archive", "--before", "30", "--archive", "/nowhere", archive=False, code=2)
    database.sql("UPDATE state_copies SET form = 'of another version'")
    refused = await shell.run("log", "archive", "--before", "31", "--segment-events", str(SEGMENT_EVENTS), code=1)
    assert "(archive-uncovered)" in refused.stderr
    assert database.sql("SELECT count(*) FROM events") == [(40,)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_killed_anywhere_it_loses_nothing_and_goes_on_when_run_again(
    storied: EventLog, shell: Shell, database: Database, folder: Path, fault: str
) -> None:
    before = await shell.run("log", "export")
    await shell.run(
        "log", "archive", "--before", "31", "--segment-events", str(SEGMENT_EVENTS), fault=fault, code=KILLED
    )
    gone = SEGMENT_EVENTS if fault == "after-commit" else 0
    assert database.sql("SELECT min(position) FROM events") == [(gone + 1,)]
    proof = await shell.json("log", "verify")
    assert (proof["sound"], proof["events"], proof["archived"]) == (True, 40, gone)
    assert len(await shell.archive("31")) == (30 - gone) // SEGMENT_EVENTS
    proof = await shell.json("log", "verify")
    assert (proof["sound"], proof["events"], proof["archived"]) == (True, 40, 30)
    assert (await shell.run("log", "export")).stdout == before.stdout
    recorded = {name for (name,) in database.sql("SELECT file FROM archived_segments")}
    assert recorded == {path.name for path in await asyncio.to_thread(lambda: list(folder.iterdir()))}


async def test_a_leader_goes_on_appending_meanwhile(storied: EventLog, shell: Shell) -> None:
    loop = await loop_on(storied)
    archiving = asyncio.create_task(shell.archive("31"))
    told = 0
    while not archiving.done():
        told += 1
        await storied.append([opened("meanwhile", told)], epoch=loop._epoch)
        await asyncio.sleep(0.01)
    assert len(await archiving) == 3
    proof = await shell.json("log", "verify")
    assert (proof["sound"], proof["events"], proof["archived"]) == (True, 40 + told, 30)


@pytest.mark.nats
async def test_what_a_control_plane_tells_of_archived_starts_is_not_that_there_were_none(
    storied: EventLog,
    shell: Shell,
    database: Database,
    folder: Path,
    nats_server: NatsServer,
    make_control_plane: Callable[..., ControlPlaneProcess],
) -> None:
    await shell.archive()
    control_plane = make_control_plane(WOODFROG_DATABASE_URL=database.url, WOODFROG_LOG_ARCHIVE=str(folder))
    control_plane.start()

    async def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return await shell.run(*words, archive=False, WOODFROG_NATS_URL=nats_server.url, WOODFROG_DATABASE_URL="")

    assert "has been archived" in (await ask("why", KEY.id)).stderr
    told = await ask("history", KEY.id)
    assert "older events are not shown" in told.stderr
    assert "never started" not in (await ask("why", "later")).stderr
    assert "was ever started" in (await ask("why", "nobody")).stderr
