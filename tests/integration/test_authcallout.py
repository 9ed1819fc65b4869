"""Whom the control plane lets a real server let in, by the tokens of pods; whatever else comes is refused with a reason."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from aiohttp import web
from nats.aio.client import Client
from support.isolated import IsolatedServer
from support.tokens import NAMESPACE, SERVICE_ACCOUNT, TokenApi, part
from support.worker import eventually, stored_messages

from controlplane.bus.streams import ensure_streams
from controlplane.kube.api import KubernetesUnavailableError, kubernetes
from controlplane.kube.authcallout import AuthCallout
from controlplane.kube.nodeworkers import NodeWorkers, RefusedError
from process.nats import connect
from protocol import subjects
from protocol.ids import NodeName
from woodfrog.isolation import CALLOUT, Isolation

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

A, B = NodeName("node.a"), NodeName("node.b")
POD = f"worker-on-{A}"


@pytest.fixture(autouse=True)
def forgotten_transports() -> Iterator[None]:
    """nats-py 2.16 forgets the transport of a connection that the server turns away; collect it here, where it is known."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TokenApi]:
    async with TokenApi(tmp_path) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        yield api


@pytest.fixture
async def workers(api: TokenApi) -> AsyncIterator[NodeWorkers]:
    async with kubernetes() as connection:
        yield NodeWorkers(connection, namespace=NAMESPACE, service_account=SERVICE_ACCOUNT)


@pytest.fixture
async def unanswered(tmp_path: Path, api: TokenApi) -> AsyncIterator[IsolatedServer]:
    server = IsolatedServer(tmp_path, A, B, mode="tokens", kubernetes=api)
    yield server
    await server.close()


@pytest.fixture
async def server(unanswered: IsolatedServer) -> IsolatedServer:
    await unanswered.let_in()
    return unanswered


@pytest.mark.parametrize("node_claim", [True, False], ids=["since 1.30", "before"])
async def test_a_workers_token_tells_its_node(api: TokenApi, workers: NodeWorkers, node_claim: bool) -> None:
    worker = await workers.whose(api.run_pod(POD, A, node_claim=node_claim, lifetime_seconds=600))
    assert (worker.node, worker.pod) == (A, POD)
    assert worker.token_expires_seconds == pytest.approx(time.time() + 600, abs=60)
    assert [each["audiences"] for each in api.asked] == [["woodfrog"]]


def _gone(api: TokenApi, token: str) -> None:
    del api.pods[POD]


def _replaced(api: TokenApi, token: str) -> None:
    api.run_pod(POD, B)


def _failed(api: TokenApi, token: str) -> None:
    api.pods[POD]["status"]["phase"] = "Failed"


def _nowhere(api: TokenApi, token: str) -> None:
    del api.pods[POD]["spec"]["nodeName"]


def _moved(api: TokenApi, token: str) -> None:
    api.pods[POD]["spec"]["nodeName"] = B


def _other_account(api: TokenApi, token: str) -> None:
    api.pods[POD]["spec"]["serviceAccountName"] = "default"


def _unbound(api: TokenApi, token: str) -> None:
    api.reviews[token]["user"]["extra"] = {}


def _revoked(api: TokenApi, token: str) -> None:
    del api.reviews[token]


def _other_user(api: TokenApi, token: str) -> None:
    api.reviews[token]["user"]["username"] = "system:serviceaccount:default:default"


def _no_audiences(api: TokenApi, token: str) -> None:
    api.reviews[token]["audiences"] = []


Spoil = Callable[[TokenApi, str], None]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_gone, "is gone"),
        (_replaced, "is another one by now"),
        (_failed, "has ended: Failed"),
        (_nowhere, "is on no node"),
        (_moved, "on another node than its token says"),
        (_other_account, "does not run as woodfrog-node"),
        (_unbound, "not bound to a pod"),
        (_revoked, "does not accept the token"),
        (_other_user, "default:default"),
        (_no_audiences, "audience"),
    ],
)
async def test_a_token_that_proves_no_node_is_refused_with_the_reason(
    api: TokenApi, workers: NodeWorkers, spoil: Spoil, reason: str
) -> None:
    token = api.run_pod(POD, A, node_claim=spoil is _moved)
    spoil(api, token)
    with pytest.raises(RefusedError, match=reason) as refused:
        await workers.whose(token)
    assert token not in str(refused.value)


async def test_a_token_for_somebody_else_is_refused(api: TokenApi, workers: NodeWorkers) -> None:
    with pytest.raises(RefusedError, match="audiences"):
        await workers.whose(api.run_pod(POD, A, audience="https://kubernetes.default.svc"))


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "a.b", ".." , f"x.{part({'sub': 5})}.y", f"x.{part({})}.y", "ä.ö.ü", "x" * 20000]
)  # fmt: skip
async def test_what_is_no_workers_token_does_not_even_reach_kubernetes(
    api: TokenApi, workers: NodeWorkers, token: str
) -> None:
    with pytest.raises(RefusedError, match="presented"):
        await workers.whose(token)
    with pytest.raises(RefusedError, match="another ServiceAccount"):
        await workers.whose(api.run_pod("other", A, account="default"))
    assert api.asked == []


async def test_nobody_is_judged_while_kubernetes_does_not_answer(api: TokenApi, workers: NodeWorkers) -> None:
    token = api.run_pod(POD, A)
    api.failing = True
    with pytest.raises(KubernetesUnavailableError, match="500"):
        await workers.whose(token)


async def turned_away(server: IsolatedServer, **presented: Any) -> None:
    with pytest.raises(nats.errors.Error):
        await nats.connect(server.url, allow_reconnect=False, max_reconnect_attempts=0, connect_timeout=15, **presented)


async def test_who_is_refused_is_not_let_in_and_the_reason_is_logged(
    api: TokenApi, server: IsolatedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    token = api.run_pod("evicted", A)
    api.pods["evicted"]["status"]["phase"] = "Failed"
    await turned_away(server, token=token)
    await turned_away(server, user="woodfrog", password="woodfrog")
    await turned_away(server)
    said = capsys.readouterr().out
    assert "pod evicted has ended: Failed" in said
    assert "no token was presented" in said
    assert "evicted has ended" in server.log.read_text()
    assert token not in said + server.log.read_text()


async def can_report(client: Client, node: NodeName) -> bool:
    with suppress(nats.errors.Error):
        await client.request(subjects.reports(node), b"{}", timeout=0.5)
        return True
    return False


async def reports(server: IsolatedServer) -> Callable[[], Awaitable[int]]:
    control = await server.as_control()
    await ensure_streams(control.jetstream())

    async def count() -> int:
        return len(await stored_messages(control, subjects.REPORTS_STREAM))

    return count


async def test_a_node_is_let_in_once_kubernetes_answers_again(api: TokenApi, server: IsolatedServer) -> None:
    count = await reports(server)
    api.failing = True
    coming = asyncio.create_task(server.as_node(A))
    await asyncio.sleep(2)
    assert not coming.done()
    api.failing = False
    assert await can_report(await asyncio.wait_for(coming, 30), A)
    assert await count() == 1


async def test_a_token_that_was_replaced_is_presented_at_the_next_connection(
    api: TokenApi, server: IsolatedServer
) -> None:
    await reports(server)
    client = await server.as_node(A)
    first = server.token_file(A).read_text()
    second = api.run_pod(f"{POD}-2", A)
    server.token_file(A).write_text(second + "\n")
    await client.force_reconnect()
    assert await eventually(lambda: can_report(client, A), saying="it is back")
    assert [each["token"] for each in api.asked] == [first, second]


async def test_a_connection_ends_with_the_time_that_it_was_given(
    tmp_path: Path, api: TokenApi, workers: NodeWorkers, unanswered: IsolatedServer
) -> None:
    seeds = unanswered.isolation.seed_file(CALLOUT).parent
    # A minute is the least that is given, and this clock is almost a minute late.
    callout = AuthCallout(unanswered.url, seeds, workers, clock=lambda: time.time() - 56)
    running = asyncio.create_task(callout.run())
    await callout.listening.wait()
    file = tmp_path / "brief"
    file.write_text(api.run_pod("brief", A, lifetime_seconds=1))
    client = await connect(unanswered.url, name="brief", inbox_prefix=subjects.inbox(A), token_file=file)
    began = time.monotonic()

    async def closed() -> bool:
        return client.is_closed

    await eventually(closed, saying="the server ends the connection")
    assert 1 < time.monotonic() - began < 15
    await client.close()
    running.cancel()


async def test_any_of_several_control_planes_answers(unanswered: IsolatedServer, workers: NodeWorkers) -> None:
    seeds = unanswered.isolation.seed_file(CALLOUT).parent
    running = []
    for _ in range(2):
        callout = AuthCallout(unanswered.url, seeds, workers)
        running.append(asyncio.create_task(callout.run()))
        await callout.listening.wait()
    await reports(unanswered)
    assert await can_report(await unanswered.as_node(A), A)
    running[0].cancel()
    with suppress(asyncio.CancelledError):
        await running[0]
    for node in (A, B):
        assert await can_report(await asyncio.wait_for(unanswered.as_node(node), 10), node)
    running[1].cancel()


async def test_nobody_else_hears_tokens_or_answers_the_server(server: IsolatedServer, api: TokenApi) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    people = [await server.as_control(), await server.as_operator(), await server.as_node(A)]
    for client in people:
        for subject in ("$SYS.REQ.USER.AUTH", "$SYS.>", ">"):
            await client.subscribe(subject, cb=heard.put)
        await client.flush()
    token = server.token_file(B).read_text()
    await server.as_node(B)
    await asyncio.sleep(0.5)
    while not heard.empty():
        message = heard.get_nowait()
        assert message.subject != "$SYS.REQ.USER.AUTH"
        assert token.encode() not in message.data


async def test_a_node_with_a_key_and_one_with_a_token_live_side_by_side(tmp_path: Path, api: TokenApi) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    Isolation(folder / "nats").make(callout=True)
    Isolation(folder / "nats").add_node(B)
    server = IsolatedServer(folder, A, mode="tokens", kubernetes=api)
    await server.let_in()
    try:
        await reports(server)
        assert await can_report(await server.as_node(A), A)
        by_key = await connect(
            server.url,
            name="b",
            inbox_prefix=subjects.inbox(B),
            seed_file=server.isolation.seed_file(subjects.token(B)),
        )
        assert await can_report(by_key, B)
        assert not await can_report(by_key, A)
        await by_key.close()
    finally:
        await server.close()


class SecretApi:
    """Secrets of one namespace, with the versions by which writers notice one another."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.conflicts = 0
        self.app = web.Application()
        self.app.router.add_get("/api/v1/namespaces/ns/secrets/{name}", self._get)
        self.app.router.add_post("/api/v1/namespaces/ns/secrets", self._post)
        self.app.router.add_put("/api/v1/namespaces/ns/secrets/{name}", self._put)

    async def _get(self, request: web.Request) -> web.Response:
        found = self.secrets.get(request.match_info["name"])
        return web.json_response(found or {}, status=200 if found else 404)

    async def _post(self, request: web.Request) -> web.Response:
        secret = await request.json()
        name = secret["metadata"]["name"]
        if name in self.secrets:
            return web.json_response({}, status=409)
        secret["metadata"]["resourceVersion"] = "1"
        self.secrets[name] = secret
        return web.json_response(secret, status=201)

    async def _put(self, request: web.Request) -> web.Response:
        secret = await request.json()
        before = self.secrets[request.match_info["name"]]["metadata"]["resourceVersion"]
        if self.conflicts or secret["metadata"]["resourceVersion"] != before:
            self.conflicts -= 1
            return web.json_response({}, status=409)
        secret["metadata"]["resourceVersion"] = str(int(before) + 1)
        self.secrets[request.match_info["name"]] = secret
        return web.json_response(secret)


async def test_a_secret_holds_keys_that_stay_and_the_configuration_of_the_release(tmp_path: Path) -> None:
    served = SecretApi()
    runner = web.AppRunner(served.app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        '{"apiVersion": "v1", "kind": "Config", "current-context": "it", "users": [{"name": "it", "user": {}}],'
        f'"clusters": [{{"name": "it", "cluster": {{"server": "http://127.0.0.1:{runner.addresses[0][1]}"}}}}],'
        '"contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}'
    )

    async def run() -> str:
        command = [
            sys.executable,
            "-m",
            "woodfrog.isolation",
            "secret",
            "ns",
            "woodfrog-nats",
            "--label",
            "app=woodfrog",
        ]
        done = await asyncio.to_thread(
            subprocess.run, command, env=os.environ | {"KUBECONFIG": str(kubeconfig)}, capture_output=True, text=True,
            cwd=Path(__file__).parents[2], timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        assert "written" in await run()
        first = served.secrets["woodfrog-nats"]
        assert "as it is to be" in await run()
        assert served.secrets["woodfrog-nats"] is first
        first["data"]["accounts.conf"] = base64.b64encode(b"of an older release").decode()
        served.conflicts = 1
        assert "written" in await run()
        second = served.secrets["woodfrog-nats"]
    finally:
        await runner.cleanup()
    assert second["metadata"]["labels"] == {"app": "woodfrog"}
    same = {key for key in first["data"] if first["data"][key] == second["data"][key]}
    assert set(first["data"]) - same == {"accounts.conf"}
    assert {key for key in same if key.endswith(".seed")} == {
        "control.seed", "operator.seed", "callout.seed", "issuer.seed",
    }  # fmt: skip
    public = [base64.b64decode(content) for key, content in second["data"].items() if key.endswith(".conf")]
    assert len(public) == 6
    assert not any(b"SU" + b"A" in content and b".seed" in content for content in public)
    seeds = [base64.b64decode(second["data"][key]).strip() for key in same if key.endswith(".seed")]
    assert not any(seed in content for seed in seeds for content in public)
    _serves(tmp_path, second["data"])


def _serves(folder: Path, data: dict[str, str]) -> None:
    """What a broker's pod mounts makes a configuration that the server takes."""
    mounted = folder / "mounted"
    mounted.mkdir()
    for key, content in data.items():
        if key.endswith(".conf"):
            (mounted / key).write_bytes(base64.b64decode(content))
    (mounted / "nats.conf").write_text('jetstream { store_dir: "js" }\ninclude "accounts.conf"\n')
    server = Path(sys.executable).with_name("nats-server")
    checked = subprocess.run(
        [server, "--config", mounted / "nats.conf", "-t"], capture_output=True, text=True, timeout=20, check=False
    )
    assert checked.returncode == 0, checked.stderr
