"""The AUDIT stream as its reference page describes it to strangers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js.errors import BadRequestError, ServerError
from support.servers import ControlPlaneProcess
from support.worker import KEY, Worker, audit_follows_the_log, snapshot_name

from woodfrog.protocol import subjects
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.ids import ContainerId, IncarnationNumber

pytestmark = pytest.mark.nats

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "audit.md"


def _program(page: str) -> str:
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert isinstance(program, str)
    return program


async def test_the_program_on_the_reference_page_follows_an_id_from_a_position_on(
    client: Client, control_plane: ControlPlaneProcess, nats_url: str
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await audit_follows_the_log(client, 7)
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _program(PAGE.read_text()), nats_url, "job", "3",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    await worker.say(
        ContainerEnded(
            key=KEY, incarnation=IncarnationNumber(1), node=worker.node, container_id=ContainerId("c1"), exit_code=0
        )
    )
    async with asyncio.timeout(20):
        out, err = await reader.communicate()
    assert reader.returncode == 0, err.decode()
    told = [(int(line.split()[0]), line.split()[2]) for line in out.decode().splitlines()]
    assert told == [
        (4, "container.started"),
        (5, "snapshot.dump-started"),
        (6, "snapshot.captured"),
        (7, "snapshot.stored"),
        (8, "container.ended"),
    ]


async def test_every_header_on_the_reference_page_is_sent_and_every_header_sent_is_on_it(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await audit_follows_the_log(client, 1)
    message = await client.jetstream().get_msg(subjects.AUDIT_STREAM, seq=1)
    table = PAGE.read_text().split("| header | what |")[1].split("\n\n")[0]
    described = set(
        re.findall(r"`([A-Za-z]+(?:-[A-Za-z]+)+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row))
    )
    sent = set(message.headers or {})
    assert described - {"ce-correlation", "ce-traceparent"} == sent - {"Nats-Expected-Stream"}


async def test_the_stream_refuses_to_forget(client: Client, control_plane: ControlPlaneProcess) -> None:
    worker = Worker(client)
    await worker.register()
    await audit_follows_the_log(client, 1)
    with pytest.raises((BadRequestError, ServerError)):
        await client.jetstream().delete_msg(subjects.AUDIT_STREAM, 1)
    with pytest.raises((BadRequestError, ServerError)):
        await client.jetstream().purge_stream(subjects.AUDIT_STREAM)
