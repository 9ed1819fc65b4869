"""What may be changed over the HTTP API: by whom, how it is asked, and as whose act it is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.client import Client
from support.api import ACTING, ACTING_ELSEWHERE, DEFAULT, EVERYTHING, Deciding, Served, served, silent
from support.databases import SqliteFile
from support.kubeapi import Request, serving
from support.logstory import KEY, story
from support.servers import ControlPlaneProcess
from support.worker import KEY as WORKED
from support.worker import Worker, eventually, query, snapshot_name

from controlplane.http.api.actions import ACTIONS
from controlplane.http.api.settings import ApiSettings
from controlplane.http.api.tokens import InvalidTokensError, read_tokens
from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from woodfrog.protocol.node_status import NodeStatus

pytestmark = pytest.mark.timeout(60)

IN = f"/api/v1/snapshots/{KEY.namespace}"
LIFE = f"/api/v1/ids/{KEY.namespace}/{KEY.id}"


class Log:
    """A log with a story, and an API that may add to it."""

    def __init__(self, log: EventLog, api: Served, folder: Path, asks: Deciding, url: str) -> None:
        self.log, self.api, self.folder, self.asks, self.url = log, api, folder, asks, url

    async def latest(self) -> str:
        (row,) = await self.log.query("latest_snapshots")
        return str(row["snapshot_id"])

    async def last(self) -> dict[str, Any]:
        return (await self.log.history(KEY))[-1]


@pytest.fixture
async def acting(tmp_path: Path) -> AsyncIterator[Log]:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    await log.append(story(), epoch=epoch)
    asks = Deciding(log, epoch)
    async with served(log, url, tmp_path, asks=asks) as api:
        yield Log(log, api, tmp_path, asks, url)
    await log.close()


async def test_whoever_may_changes_something_and_is_recorded_with_it(acting: Log) -> None:
    act, name = acting.api.act, await acting.latest()
    status, said = await act(f"{IN}/{name}/pin", because="known to be good")
    assert (status, said["namespace"], said["id"], said["snapshot_id"]) == (200, "default", KEY.id, name)
    event = await acting.last()
    assert (event["type"], event["metadata"]["actor"], event["data"]["reason"]) == (
        "snapshot.pinned", "user/actor", "known to be good",
    )  # fmt: skip
    status, said = await act(f"{IN}/{name}/delete")
    assert (status, said["code"]) == (409, "snapshot-pinned")
    assert (await act(f"{IN}/{name}/unpin"))[0] == 200
    assert (await act(f"{IN}/{name}/delete"))[1]["code"] == "latest-snapshot"
    assert (await act(f"{IN}/{name}/invalidate", because="holds a wrong result"))[0] == 200
    assert (await act(f"{IN}/{name}/retry"))[0] == 200
    assert (await act(f"{IN}/{name}/delete", force=True, because="not needed"))[0] == 200
    assert (await acting.last())["type"] == "snapshot.expired"
    for path, code in (("checkpoint", "dump-in-flight"), ("forget", "id-in-use")):
        status, said = await act(f"{LIFE}/{path}")
        assert (status, said["code"]) == (409, code)
    status, said = await act(f"{LIFE}-unknown/forget")
    assert (status, said["code"]) == (404, "unknown-id")
    assert (await act(f"{IN}/20260101T000000Z-00000000/pin"))[0] == 404


async def test_nobody_else_changes_anything(acting: Log) -> None:
    name, head = await acting.latest(), await acting.log.head()
    for action in ACTIONS:
        path = action.path.format(namespace=KEY.namespace, id=KEY.id, snapshot_id=name)
        for token, expected in (
            (None, 401),
            ("x" * 32, 401),
            (EVERYTHING, 403),
            (DEFAULT, 403),
            (ACTING_ELSEWHERE, 403),
        ):
            status, said = await acting.api.act(
                path, token, **({"because": "x"} if action.name != "checkpoint" else {})
            )
            assert (action.name, token, status) == (action.name, token, expected), said
    assert await acting.log.head() == head
    for token, allowed in ((ACTING, [action.name for action in ACTIONS]), (EVERYTHING, []), (DEFAULT, [])):
        assert (await acting.api.get(LIFE, token))[2]["actions"] == allowed


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Content-Type": "text/plain"}, b"{}", (415, "api-parameter")),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"because=x", (415, "api-parameter")),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, b"{}", (403, "api-cross-site")),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, b"{}", (403, "api-cross-site")),
        ({"Content-Type": "application/json"}, b'{"because": 5}', (400, "api-parameter")),
        ({"Content-Type": "application/json"}, b'{"colour": "blue"}', (400, "api-parameter")),
        ({"Content-Type": "application/json"}, b'{"because": "a\\u0000b"}', (400, "api-parameter")),
        ({"Content-Type": "application/json"}, b'{"because": "' + b"x" * 501 + b'"}', (400, "api-parameter")),
        ({"Content-Type": "application/json"}, b'{"because": "' + b"x" * 5000 + b'"}', (413, "api-parameter")),
        ({"Content-Type": "application/json"}, b"\xff", (400, "api-parameter")),
    ],
)
async def test_what_another_site_or_a_form_could_send_is_refused(
    acting: Log, headers: dict[str, str], body: bytes, expected: tuple[int, str]
) -> None:
    head, path = await acting.log.head(), f"{IN}/{await acting.latest()}/pin"
    status, _, said = await acting.api.get(path, ACTING, headers=headers, method="POST", data=body)
    assert (status, said["code"]) == expected
    assert await acting.log.head() == head
    same = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
    assert (await acting.api.get(path, ACTING, headers=same, method="POST", data=b""))[0] == 200


async def test_a_path_says_by_which_methods_it_is_asked(acting: Log) -> None:
    path = f"{IN}/{await acting.latest()}/pin"
    for asked, method, allowed in (
        (path, "GET", "POST"),
        ("/api/v1/ids", "POST", "GET, HEAD"),
        (path, "DELETE", "GET, HEAD"),
    ):
        status, headers, body = await acting.api.get(asked, ACTING, method=method)
        assert (status, body["code"]) == (405, "api-read-only")
        assert headers["Allow"] == allowed
    paths = (await acting.api.get("/api/v1/openapi.json"))[2]["paths"]
    assert {action.path for action in ACTIONS} <= set(paths)


async def test_without_the_setting_nothing_can_be_changed(acting: Log) -> None:
    async with served(acting.log, acting.url, acting.folder) as reading:
        status, said = await reading.act(f"{IN}/{await acting.latest()}/pin")
        assert (status, said["code"]) == (405, "api-read-only")
        assert (await reading.get(LIFE, ACTING))[2]["actions"] == []
        paths = (await reading.get("/api/v1/openapi.json"))[2]["paths"]
        assert not {action.path for action in ACTIONS} & set(paths)
    on = {"WOODFROG_API_ADDRESS": "127.0.0.1:0", "WOODFROG_API_KUBERNETES": "on"}
    plain, switched = (ApiSettings.from_environment(on | more) for more in ({}, {"WOODFROG_API_ACTIONS": "on"}))
    assert plain is not None
    assert switched is not None
    assert (plain.actions, switched.actions) == (False, True)


async def test_kubernetes_says_who_may_update_and_who_may_delete(acting: Log) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: Request) -> Any:
        spec = request.data["spec"]
        if request.data["kind"] == "TokenReview":
            user = {"username": spec["token"].removeprefix("of-")}
            return {"status": {"authenticated": True, "user": user, "audiences": spec["audiences"]}}
        asked.append(spec["resourceAttributes"])
        rights = {"viewer": {"get"}, "operator": {"get", "update"}, "owner": {"get", "update", "delete"}}[spec["user"]]
        return {"status": {"allowed": spec["resourceAttributes"]["verb"] in rights}}

    async with (
        serving(answer) as kubernetes,
        served(acting.log, acting.url, acting.folder, api=kubernetes, asks=acting.asks) as api,
    ):
        name = await acting.latest()
        assert (await api.act(f"{IN}/{name}/pin", "of-viewer"))[0] == 403
        assert (await api.act(f"{IN}/{name}/pin", "of-operator"))[0] == 200
        assert (await api.act(f"{IN}/{name}/unpin", "of-operator"))[0] == 200
        assert (await api.act(f"{IN}/{name}/invalidate", "of-operator", because="x"))[0] == 403
        assert (await api.act(f"{IN}/{name}/invalidate", "of-owner", because="x"))[0] == 200
        assert (await api.get(LIFE, "of-operator"))[2]["actions"] == ["checkpoint", "pin", "unpin", "retry"]
        assert (await acting.last())["metadata"]["actor"] == "user/owner"
    wanted = {"namespace": "default", "verb": "update", "resource": "checkpoints", "group": "woodfrog.io"}
    assert wanted in asked


def test_a_line_of_tokens_may_have_a_role() -> None:
    (viewer,) = read_tokens(f"a {'x' * 32} * view\n").values()
    (actor,) = read_tokens(f"a {'x' * 32} * act\n").values()
    assert (viewer.acts, actor.acts) == (False, True)
    with pytest.raises(InvalidTokensError, match="one of view, act"):
        read_tokens(f"a {'x' * 32} * admin\n")


@pytest.mark.nats
async def test_what_is_asked_over_http_is_decided_by_the_control_plane_that_leads(
    client: Client, make_control_plane: Callable[..., ControlPlaneProcess], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {ACTING} * act\n")
    process = make_control_plane(
        WOODFROG_API_ADDRESS="127.0.0.1:0", WOODFROG_API_TOKENS_FILE=str(tokens), WOODFROG_API_ACTIONS="on"
    )
    process.start()
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await eventually(lambda: stored(client), saying="the snapshot is stored")
    url = f"http://127.0.0.1:{process.wait_for('the API is served')['port']}"
    async with aiohttp.ClientSession() as session:
        api = Served(url, session, silent())
        await worker.heartbeat(NodeStatus(more_work=7))

        async def heard() -> bool:
            _, _, page = await api.get("/api/v1/nodes", ACTING)
            return [row["now"] and row["now"]["status"] for row in page["items"]] == [{"more_work": 7}]

        await eventually(heard, saying="what a worker says of itself comes over the broker")
        status, said = await api.act(f"/api/v1/snapshots/{WORKED.namespace}/{snapshot_name(1)}/pin", because="why not")
        assert (status, said["snapshot_id"]) == (200, snapshot_name(1))
        status, said = await api.act(f"/api/v1/ids/{WORKED.namespace}/{WORKED.id}/checkpoint", timeout_seconds=60)
        assert status == 200
        told = {row["type"]: row["metadata"]["actor"] for row in await query(client, "events", key=WORKED)}
        assert (told["snapshot.pinned"], told["command.issued"]) == ("user/ann", "user/ann")
        (command,) = await query(client, "commands", key=WORKED)
        assert command["command_id"] == said["command_id"]


async def stored(client: Client) -> bool:
    return any(row["status"] == "valid" for row in await query(client, "checkpoint_history", key=WORKED))
