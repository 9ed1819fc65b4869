"""The HTTP API over a real log: who sees what, how it is asked, and what it never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.api import DEFAULT, EVERYTHING, OTHER, Served, served
from support.databases import SqliteFile
from support.kubeapi import Request, serving
from support.logstory import KEY, opened, story

from controlplane.http.api import server, tail
from controlplane.http.api.settings import ApiSettings
from controlplane.http.api.tokens import InvalidTokensError, read_tokens
from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Epoch
from woodfrog.protocol.node_status import DiskSpace, NodeStatus, SelfTest, Work
from woodfrog.service.env import InvalidSettingError

pytestmark = pytest.mark.timeout(60)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIFE = f"/api/v1/ids/{KEY.namespace}/{KEY.id}"


class Log:
    """A log with a story, and the API that shows it."""

    def __init__(self, log: EventLog, url: str, api: Served, epoch: Epoch) -> None:
        self.log, self.url, self.api, self.epoch = log, url, api, epoch


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Log]:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    await log.append(story(), epoch=epoch)
    async with served(log, url, tmp_path) as api:
        yield Log(log, url, api, epoch)
    await log.close()


PATHS = [
    "/api/v1/me",
    "/api/v1/overview",
    "/api/v1/ids",
    LIFE,
    f"{LIFE}/choices",
    "/api/v1/nodes",
    "/api/v1/causes",
    "/api/v1/log",
    "/api/v1/log/tail",
    "/api/v1/views/checkpoint_history",
    "/api/v1/views/nodes",
]


async def test_nothing_is_shown_without_a_token(shown: Log) -> None:
    for path in PATHS:
        for token in (None, "x" * 32, "", "é" * 32, "x" * 20_000):
            status, headers, body = await shown.api.get(path, token) if token != "é" * 32 else (401, {}, {})
            if len(token or "") > 8000:
                assert status == 400
                continue
            assert (path, status) == (path, 401)
            if headers:
                assert headers["WWW-Authenticate"] == "Bearer"
                assert body["code"] == "api-unauthenticated"
                assert str(KEY.id) not in json.dumps(body)
    status, headers, _ = await shown.api.get("/api/v1/me", None, headers={"Authorization": f"Basic {EVERYTHING}"})
    assert status == 401
    assert (await shown.api.get("/api/v1/openapi.json", None))[0] == 200


async def test_a_viewer_of_one_namespace_sees_that_alone(shown: Log) -> None:
    get = shown.api.get
    assert (await get("/api/v1/me", DEFAULT))[2]["namespaces"] == ["default"]
    assert (await get("/api/v1/me", OTHER))[2]["namespaces"] == []
    for path in ("/api/v1/ids", "/api/v1/log", "/api/v1/views/checkpoint_history", "/api/v1/views/failures"):
        assert (await get(path, DEFAULT))[2]["items"] != []
        assert (await get(path, OTHER))[2]["items"] == []
        assert (await get(f"{path}?namespace=default", OTHER))[0] == 403
    assert (await get("/api/v1/overview", OTHER))[2]["ids"] == {}
    assert (await get("/api/v1/causes?hours=8760", OTHER))[2]["items"] == []
    for path in (LIFE, f"{LIFE}/choices", "/api/v1/log/tail?namespace=default"):
        assert (await get(path, OTHER))[0] == 403
    for path in ("/api/v1/nodes", "/api/v1/views/nodes", "/api/v1/views/dead_letters", "/api/v1/log?node=node-a"):
        assert (await get(path, DEFAULT))[0] == 403
        assert (await get(path, EVERYTHING))[0] == 200
    streams = {row["stream"] for row in (await get("/api/v1/log?limit=500", DEFAULT))[2]["items"]}
    assert streams == {f"checkpoint/{KEY}"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/api/v1/ids?limit=0", "limit"),
        ("/api/v1/ids?limit=501", "limit"),
        ("/api/v1/ids?limit=+5", "limit"),
        ("/api/v1/ids?limit=%D9%A5", "limit"),
        ("/api/v1/ids?limit=5&limit=5", "limit"),
        ("/api/v1/ids?state=asleep", "state"),
        ("/api/v1/ids?after=x", "after"),
        ("/api/v1/ids?search=%00", "search"),
        ("/api/v1/ids?search=a%C2%85", "search"),
        ("/api/v1/ids?namespace=default%0A", "namespace"),
        ("/api/v1/ids?colour=blue", "colour"),
        ("/api/v1/ids?namespace=a%2Fb", "namespace"),
        ("/api/v1/ids?namespace=", "namespace"),
        ("/api/v1/ids/default/%2e%2e%2f", "id"),
        (f"/api/v1/ids/default/{'x' * 254}", "id"),
        ("/api/v1/log?id=train-7", "namespace"),
        ("/api/v1/log?type=nothing", "type"),
        ("/api/v1/log?before=0", "before"),
        ("/api/v1/log?before=99999999999999999999", "before"),
        ("/api/v1/log?node=node-a&namespace=default", "node"),
        ("/api/v1/log/tail?after=-1", "after"),
        ("/api/v1/views/nodes?namespace=default", "namespace"),
        ("/api/v1/causes?hours=9000", "hours"),
        ("/api/v1/views/latest_snapshots?id=train-7", "namespace"),
    ],
)
async def test_what_may_not_be_asked_is_refused_by_its_name(shown: Log, query: str, field: str) -> None:
    status, _, body = await shown.api.get(query)
    assert (status, body["code"], body["field"]) == (400, "api-parameter", field)
    assert field in body["cause"]


async def test_a_position_that_the_log_does_not_have_is_not_found(shown: Log) -> None:
    status, _, body = await shown.api.get(f"{LIFE}/choices?position=9999")
    assert (status, body["code"], body["field"]) == (404, "api-not-found", "position")
    assert "9999" in body["cause"]


async def test_only_reading_is_answered(shown: Log) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = await shown.api.get("/api/v1/ids", method=method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    status, headers, body = await shown.api.get("/api/v1/ids", method="HEAD")
    assert (status, body) == (200, "")
    assert (await shown.api.get("/api/v1/nothing"))[2]["code"] == "api-not-found"
    assert (await shown.api.get("/api/v1/ids/default/never-was"))[2]["code"] == "api-not-found"


async def test_an_answer_that_did_not_change_is_not_sent_again(shown: Log) -> None:
    _, headers, body = await shown.api.get("/api/v1/ids")
    etag = headers["ETag"]
    assert (await shown.api.get("/api/v1/ids", headers={"If-None-Match": etag}))[0] == 304
    assert (await shown.api.get("/api/v1/ids", OTHER, headers={"If-None-Match": etag}))[0] == 200
    await shown.log.append([opened("fresh")], epoch=shown.epoch)
    status, _, grown = await shown.api.get("/api/v1/ids", headers={"If-None-Match": etag})
    assert status == 200
    assert len(grown["items"]) == len(body["items"]) + 1
    for path in ("/api/v1/ids", "/api/v1/nothing", "/api/v1/openapi.json"):
        headers = (await shown.api.get(path))[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


async def test_a_life_says_why_and_what_each_node_would_be_told(shown: Log) -> None:
    _, _, life = await shown.api.get(LIFE)
    assert life["now"]["id"] == KEY.id
    assert life["explanation"]["sentences"]
    assert life["archived"] is False
    _, _, now = await shown.api.get(f"{LIFE}/choices")
    assert {each["node"] for each in now["items"]} == {"node-a", "node-b"}
    assert all(each["reason"] for each in now["items"])
    _, _, first = await shown.api.get(f"{LIFE}/choices?position=2")
    assert {each["answer"] for each in first["items"]} == {"cold"}
    assert first["position"] == 2
    only = (await shown.api.get(f"{LIFE}/choices?node=node-b"))[2]["items"]
    assert [each["node"] for each in only] == ["node-b"]


BROKEN = NodeStatus(self_test=SelfTest(NOON, "restore", Failure("criu-failed", "CRIU gave up", "Try another CRIU.")))
BUSY = NodeStatus(
    self_test=SelfTest(NOON),
    disk=DiskSpace(total_bytes=100, free_bytes=4, waiting_captures=1, waiting_bytes=9),
    work=(Work("dump", KEY, NOON, "waits for its turn"),),
)


async def test_a_node_is_shown_with_what_its_worker_said_last(shown: Log) -> None:
    shown.api.hear("node-a", BROKEN)
    shown.api.hear("node-a", BUSY)
    page = (await shown.api.get("/api/v1/nodes"))[2]
    first, second = page["items"]
    assert (first["node"], first["status"], page["next"]) == ("node-a", "lost", None)
    said = first["now"]["status"]
    assert said["self_test"] == {"at": "2026-11-23T12:00:00Z"}
    assert said["disk"] == {"total_bytes": 100, "free_bytes": 4, "waiting_captures": 1, "waiting_bytes": 9}
    (work,) = said["work"]
    assert (work["kind"], work["key"]["id"], work["doing"]) == ("dump", KEY.id, "waits for its turn")
    assert (second["node"], second["now"]) == ("node-b", None), "nothing was heard of it"
    shown.api.hear("node-b", None)
    old = (await shown.api.get("/api/v1/nodes?node=node-b"))[2]["items"]
    assert [(row["node"], row["now"]["status"]) for row in old] == [("node-b", None)], "its worker is of before"


async def test_a_node_that_never_registered_since_its_self_test_failed_is_among_them_in_its_place(shown: Log) -> None:
    for node in ("node-aa", "zebra", "0", "bad name"):
        shown.api.hear(node, BROKEN, "another")
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = (await shown.api.get(f"/api/v1/nodes?limit=2{after}"))[2]
        found += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert [(row["node"], row["status"]) for row in found] == [
        ("0", "unregistered"), ("node-a", "lost"), ("node-aa", "unregistered"), ("node-b", "ready"), ("zebra", "unregistered"),
    ]  # fmt: skip
    failed = found[0]["now"]["status"]["self_test"]
    assert (failed["step"], failed["failure"]["advice"]) == ("restore", "Try another CRIU.")
    assert (await shown.api.get("/api/v1/nodes?node=zebra"))[2]["items"] == found[-1:]


async def test_the_pages_of_the_log_are_the_log(shown: Log) -> None:
    found: list[dict[str, Any]] = []
    path = "/api/v1/log?limit=7"
    while True:
        _, _, page = await shown.api.get(path)
        found += page["items"]
        if page["next"] is None:
            break
        path = f"/api/v1/log?limit=7&before={page['next']}"
    head = await shown.log.head()
    assert [row["position"] for row in found] == list(range(head, 0, -1))
    assert all(row["what"] for row in found)


async def followed(shown: Log, path: str, count: int, token: str = EVERYTHING, **headers: str) -> list[dict[str, Any]]:
    """Read so many events of a stream."""
    found: list[dict[str, Any]] = []
    sent = {"Authorization": f"Bearer {token}", **headers}
    async with shown.api.session.get(f"{shown.api.url}{path}", headers=sent) as response:
        assert response.content_type == "text/event-stream"
        identity = ""
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text.startswith("id: "):
                identity = text.removeprefix("id: ")
            elif text.startswith("data: "):
                found.append(json.loads(text.removeprefix("data: ")))
                assert found[-1]["position"] == int(identity)
                if len(found) == count:
                    break
    return found


async def test_the_tail_goes_on_where_a_client_left_it(shown: Log) -> None:
    head = await shown.log.head()
    following = asyncio.create_task(followed(shown, "/api/v1/log/tail", 2))
    await asyncio.sleep(0.5)
    await shown.log.append([opened("one"), opened("two")], epoch=shown.epoch)
    rows = await asyncio.wait_for(following, 10)
    assert [row["position"] for row in rows] == [head + 1, head + 2]
    assert rows[0]["what"]
    again = await followed(shown, "/api/v1/log/tail?after=1", 3, **{"Last-Event-ID": str(head - 1)})
    assert [row["position"] for row in again] == [head, head + 1, head + 2]
    own = await followed(shown, "/api/v1/log/tail?after=0&namespace=default&id=two", 1, DEFAULT)
    assert own[0]["stream"] == "checkpoint/local/default/two"


async def test_a_stream_ends_as_one_does_while_the_log_cannot_be_read(
    shown: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_position: int, _timeout: float) -> bool:
        raise LogUnavailableError(Failure("log-unavailable", "it is away", ""))

    monkeypatch.setattr(shown.log, "wait_for", away)
    status, _, text = await asyncio.wait_for(shown.api.get("/api/v1/log/tail"), 10)
    assert (status, text) == (200, "retry: 1000\n\n")


async def test_streams_are_bounded_and_give_their_places_back(shown: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "_MOST_OF_ONE", 2)
    sent = {"Authorization": f"Bearer {EVERYTHING}"}
    url = f"{shown.api.url}/api/v1/log/tail"
    async with shown.api.session.get(url, headers=sent), shown.api.session.get(url, headers=sent):
        assert (await shown.api.get("/api/v1/log/tail"))[0] == 503
        assert (await shown.api.get("/api/v1/log"))[0] == 200
    for _ in range(50):
        async with shown.api.session.get(url, headers=sent) as response:
            if response.status == 200:
                break
        await asyncio.sleep(0.1)
    assert response.status == 200


async def test_connections_are_bounded_and_idle_ones_make_room(shown: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 4)
    port = int(shown.api.url.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    assert (await shown.api.get("/api/v1/me"))[0] == 200
    for _, writer in idle:
        writer.close()


async def test_a_token_that_is_taken_out_of_the_file_is_nobodys(shown: Log, tmp_path: Path) -> None:
    file = tmp_path / "api-tokens"
    assert (await shown.api.get("/api/v1/me"))[0] == 200
    file.write_text(f"new {'n' * 32} *\n")
    assert (await shown.api.get("/api/v1/me"))[0] == 401
    assert (await shown.api.get("/api/v1/me", "n" * 32))[0] == 200
    file.write_text("one word\n")
    assert (await shown.api.get("/api/v1/me", "n" * 32))[0] == 401
    file.unlink()
    assert (await shown.api.get("/api/v1/me", "n" * 32))[0] == 401


async def test_a_file_of_tokens_that_is_away_for_a_moment_counts_again(shown: Log, tmp_path: Path) -> None:
    file, aside = tmp_path / "api-tokens", tmp_path / "aside"
    assert (await shown.api.get("/api/v1/me"))[0] == 200
    file.rename(aside)
    assert (await shown.api.get("/api/v1/me"))[0] == 401
    aside.rename(file)
    assert (await shown.api.get("/api/v1/me"))[0] == 200


async def test_bytes_that_are_no_text_are_nobodys_token(shown: Log) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shown.api.url.rpartition(":")[2]))
    writer.write(b"GET /api/v1/me HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


def test_a_file_of_tokens_is_read_strictly_and_never_quoted() -> None:
    assert read_tokens("# nobody\n\n") == {}
    for text in ("a b", f"a {'t' * 31} *", f"a {'t' * 31}é *", f"a {'t' * 32} *\nb {'t' * 32} *"):
        with pytest.raises(InvalidTokensError) as refused:
            read_tokens(text)
        assert "ttt" not in str(refused.value)


async def test_kubernetes_says_who_asks_and_what_they_see(shown: Log, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: Request) -> Any:
        spec = request.data["spec"]
        asked.append(request.data)
        if request.data["kind"] == "TokenReview":
            known = {"of-ann": "ann", "of-root": "root", "of-elsewhere": "eve"}
            user = known.get(spec["token"])
            audiences = [] if user == "eve" else spec["audiences"]
            return {
                "status": {"authenticated": user is not None, "user": {"username": user or ""}, "audiences": audiences}
            }
        attributes = spec["resourceAttributes"]
        assert (attributes["verb"], attributes["resource"]) == ("get", "pods")
        return {"status": {"allowed": spec["user"] == "root" or attributes["namespace"] == "default"}}

    async with serving(answer) as kubernetes, served(shown.log, shown.url, tmp_path, api=kubernetes) as api:
        me = (await api.get("/api/v1/me", "of-ann"))[2]
        assert (me["name"], me["everything"], me["namespaces"]) == ("ann", False, ["default"])
        assert (await api.get("/api/v1/ids", "of-ann"))[2]["items"] != []
        assert (await api.get("/api/v1/ids?namespace=other", "of-ann"))[0] == 403
        assert (await api.get("/api/v1/views/nodes", "of-ann"))[0] == 403
        assert (await api.get("/api/v1/views/nodes", "of-root"))[0] == 200
        assert (await api.get("/api/v1/me", "of-nobody"))[0] == 401
        assert (await api.get("/api/v1/me", "of-elsewhere"))[0] == 401
        assert (await api.get("/api/v1/me", EVERYTHING))[0] == 200
        before = len(asked)
        await api.get("/api/v1/ids", "of-ann")
        await api.get("/api/v1/me", "of-nobody")
        assert len(asked) == before


async def test_a_kubernetes_that_does_not_answer_lets_nobody_in(shown: Log, tmp_path: Path) -> None:
    async with (
        serving(lambda _: {"kind": "Status", "code": 403}) as kubernetes,
        served(shown.log, shown.url, tmp_path, api=kubernetes) as api,
    ):
        status, _, body = await api.get("/api/v1/me", "of-ann")
        assert (status, body["code"]) == (503, "kubernetes-unreachable")


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"WOODFROG_API_ADDRESS": "127.0.0.1:1"}, "never served without authentication"),
        ({"WOODFROG_API_ADDRESS": "nonsense", "WOODFROG_API_KUBERNETES": "on"}, "WOODFROG_API_ADDRESS"),
        ({"WOODFROG_API_ADDRESS": ":1", "WOODFROG_API_KUBERNETES": "on"}, "WOODFROG_API_CERTIFICATE_FILE"),
        ({"WOODFROG_API_ADDRESS": "10.0.0.1:1", "WOODFROG_API_TOKENS_FILE": "/t"}, "WOODFROG_API_INSECURE"),
        ({"WOODFROG_API_ADDRESS": "[::1]:1", "WOODFROG_API_KUBERNETES": "yes"}, "WOODFROG_API_KUBERNETES"),
        (
            {"WOODFROG_API_ADDRESS": "[::1]:1", "WOODFROG_API_KUBERNETES": "on", "WOODFROG_API_KEY_FILE": "/k"},
            "belong together",
        ),
    ],
)
def test_settings_that_would_show_the_log_to_anybody_are_refused(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidSettingError, match=problem):
        ApiSettings.from_environment(environment)


def test_the_api_is_off_unless_it_is_asked_for() -> None:
    assert ApiSettings.from_environment({}) is None
    listening = {"WOODFROG_API_ADDRESS": "127.0.0.1:1", "WOODFROG_API_TOKENS_FILE": "/t"}
    assert ApiSettings.from_environment(listening) is not None
    insecure = {"WOODFROG_API_ADDRESS": ":1", "WOODFROG_API_TOKENS_FILE": "/t", "WOODFROG_API_INSECURE": "on"}
    assert ApiSettings.from_environment(insecure) is not None


async def test_the_openapi_document_names_everything_that_is_answered(shown: Log) -> None:
    document = (await shown.api.get("/api/v1/openapi.json", None))[2]
    forms = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for content in item["get"]["responses"]["200"]["content"].values():
            reference = content["schema"].get("$ref")
            assert reference is None or reference.rpartition("/")[2] in forms, path
    columns = forms["nodes"]["properties"]["items"]["items"]["properties"]
    assert "JSON" in columns["gpus"]["description"]
    now = forms["Nodes"]["properties"]["items"]["items"]["properties"]["now"]
    assert {"$ref": "#/components/schemas/NodeNow"} in now["anyOf"]
    assert {"self_test", "disk", "work"} <= forms["NodeStatus"]["properties"].keys()
    assert datetime.now(UTC).year >= 2026
