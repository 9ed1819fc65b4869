"""What the command line lists, where it is more than one message carries."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import yaml
from support.logstory import KEY, opened, story
from support.servers import ControlPlaneProcess, NatsServer

from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from woodfrog import client
from woodfrog.dev_state import Reach
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.requests import EventFilter

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


async def test_a_log_that_no_message_carries_is_listed_in_pages(
    make_control_plane: Callable[..., ControlPlaneProcess], nats_server: NatsServer, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'large.db'}"
    await upgrade(url)
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    await log.append(story(), epoch=epoch)
    for first in range(0, 1800, 600):
        await log.append([opened("x" * 200 + str(number), 1) for number in range(first, first + 600)], epoch=epoch)
    head = await log.head()
    await log.close()
    make_control_plane(WOODFROG_DATABASE_URL=url).start()
    reach = Reach(nats_server.url, "local")
    rows = await asyncio.to_thread(client.view, reach, "events")
    positions = [row["position"] for row in rows]
    assert positions == list(range(positions[0], positions[-1] + 1))
    assert positions[0] == 1
    assert positions[-1] >= head
    newest = await asyncio.to_thread(client.view, reach, "events", limit=7)
    assert [row["position"] for row in newest] == positions[-7:]
    own = await asyncio.to_thread(client.view, reach, "events", KEY)
    assert len(own) == sum(row["stream"] == f"checkpoint/{KEY}" for row in rows)

    third = next(row for row in rows if row["position"] == 3)["recorded_at"]
    for only, key, wanted in (
        (
            EventFilter(types=("node.registered", "incarnation.opened")),
            None,
            lambda row: row["type"] in {"node.registered", "incarnation.opened"},
        ),
        (EventFilter(node="node-a"), None, lambda row: row["stream"] == "node/node-a"),
        (
            EventFilter(namespace=KEY.namespace, cluster="local"),
            None,
            lambda row: row["stream"].startswith(f"checkpoint/local/{KEY.namespace}/"),
        ),
        (EventFilter(types=("snapshot.stored",)), KEY, lambda row: row["type"] == "snapshot.stored"),
        (EventFilter(since=datetime.fromisoformat(third)), None, lambda row: row["recorded_at"] > third),
    ):
        some = await asyncio.to_thread(partial(client.events, reach, only, key, limit=10_000))
        assert [row["position"] for row in some] == [row["position"] for row in rows if wanted(row)], only
        assert some
    with pytest.raises(FailureError, match="malformed-request"):
        await asyncio.to_thread(partial(client.events, reach, EventFilter(node="node-a", namespace="x"), limit=1))
    for view in ("restore_history", "checkpoint_history", "latest_snapshots", "commands", "failures"):
        everything = await asyncio.to_thread(client.view, reach, view)
        of_one = partial(client.of_namespace, reach, view, KEY.namespace, limit=10_000)
        assert await asyncio.to_thread(of_one) == [row for row in everything if row["namespace"] == KEY.namespace]
        (newest,) = await asyncio.to_thread(partial(of_one, limit=1))
        assert newest == everything[-1], "a limit is of the rows of the namespace"
        assert await asyncio.to_thread(client.of_namespace, reach, view, "none", limit=10) == []
    with pytest.raises(FailureError, match="rows of the view nodes are not filtered so"):
        await asyncio.to_thread(client.of_namespace, reach, "nodes", KEY.namespace, limit=10)

    def said(*words: str) -> str:
        environment = {**os.environ, "WOODFROG_NATS_URL": nats_server.url, "WOODFROG_CLUSTER": "local"}
        done = subprocess.run(
            [Path(sys.executable).with_name("woodfrog"), *words],
            env=environment, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return done.stdout

    assert await asyncio.to_thread(said, "get", "nodes", "-o", "name") == "node-a\nnode-b\n"
    listed = yaml.safe_load(await asyncio.to_thread(said, "get", "events", "--limit", "3", "-o", "yaml"))
    assert [row["position"] for row in listed] == positions[-3:]
    ids = (await asyncio.to_thread(said, "get", "ids", "-n", KEY.namespace, "-o", "name")).split()
    assert (ids[0], len(ids)) == (KEY.id, 1801)
    for verb in ("failures", "commands"):
        everything = yaml.safe_load(await asyncio.to_thread(said, "get", verb, "-o", "yaml"))
        of_id = yaml.safe_load(await asyncio.to_thread(said, "get", verb, KEY.id, "-n", KEY.namespace, "-o", "yaml"))
        assert of_id == [row for row in everything if row["id"] == KEY.id]
    wide = await asyncio.to_thread(said, "get", "snapshots", "-o", "wide")
    assert "MANIFEST DIGEST" in wide.splitlines()[0]
