"""Whom the control plane lets a real server let in, by the tokens of pods; whatever else comes is refused with a reason."""

from __future__ import annotations

import asyncio
import gc
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
import yaml
from nats.aio.client import Client
from support import chart
from support.charted_nats import ChartedNats
from support.isolated import IsolatedServer
from support.tokens import NAMESPACE, SERVICE_ACCOUNT, TokenApi, part
from support.worker import FACTS, eventually, stored_messages

from controlplane.app import let_nodes_in
from controlplane.bus.streams import ensure_streams
from controlplane.kube.api import ApiError, kubernetes
from controlplane.kube.authcallout import AuthCallout
from controlplane.kube.token_review import AUDIENCE, NodeWorkers, RefusedError
from controlplane.settings import Settings
from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.isolation import CALLOUT, CONTROL, ISSUER, OPERATOR, Isolation
from woodfrog.isolation.derived import DerivedKeys
from woodfrog.protocol import subjects
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import NodeRegistered
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

A, B = NodeName("node.a"), NodeName("node.b")
ROOT = Path(__file__).parents[4]
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
    with pytest.raises(ApiError, match="500"):
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

    async def asked_again() -> bool:
        return len(api.asked) > 1

    await eventually(asked_again, saying="the server ends the connection, and it has to prove itself anew")
    assert 1 < time.monotonic() - began < 15
    await client.close()
    running.cancel()


async def test_a_worker_whose_time_is_over_comes_back_by_itself(
    tmp_path: Path, api: TokenApi, workers: NodeWorkers, unanswered: IsolatedServer
) -> None:
    callout = AuthCallout(
        unanswered.url, unanswered.isolation.seed_file(CALLOUT).parent, workers, clock=lambda: time.time() - 56
    )
    answering = asyncio.create_task(callout.run())
    await callout.listening.wait()
    count = await reports(unanswered)
    unanswered.token_file(A).write_text(api.run_pod(POD, A, lifetime_seconds=1))
    worker_id = WorkerId("life-1")
    journal = Journal(tmp_path / "journal.sqlite3", node=A, worker_id=worker_id)
    bus = Bus(
        unanswered.url, A, journal,
        heartbeat=lambda: Heartbeat(A, worker_id, "boot", FACTS), token_file=unanswered.token_file(A),
    )  # fmt: skip

    async def obey(_: Command) -> None:
        raise AssertionError("nobody commands it")

    running = asyncio.create_task(bus.run(obey))

    async def let_in_again() -> bool:
        return len(api.asked) > 1

    try:
        await eventually(let_in_again, saying="it presents its token a second time", seconds=40)
        journal.report(NodeRegistered(node=A, worker_id=worker_id, boot_id="boot", facts=FACTS))
        assert await bus.flush(20)
        assert await count() == 1
    finally:
        for task in (running, answering):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        journal.close()


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


def rendered(*settings: str) -> list[dict[str, Any]]:
    """What the chart makes, in the namespace and with the names that the tests use."""
    helm = Path(sys.executable).with_name("helm")
    command = [helm, "template", "woodfrog", ROOT / "helm/woodfrog", "--namespace", NAMESPACE]
    done = subprocess.run(
        [*command, *(word for each in settings for word in ("--set", each))],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


async def test_the_charts_broker_knows_nodes_by_their_pods_tokens(tmp_path: Path, api: TokenApi) -> None:
    broker = ChartedNats(tmp_path / "release")
    plane = chart.one(broker.manifests, "Deployment", "woodfrog-controlplane")["spec"]["template"]["spec"]
    worker = chart.one(broker.manifests, "DaemonSet", SERVICE_ACCOUNT)["spec"]["template"]["spec"]
    derived = sorted(path.name for path in (tmp_path / "release/nats-callout").iterdir())
    assert derived == ["authorization.conf", "callout.conf", "control.conf", "people.conf"]
    seeds = broker.seeds("Deployment", "woodfrog-controlplane")
    url = f"tls://{await asyncio.to_thread(broker.start)}"
    try:
        told = broker.variables(plane["containers"][0]) | {
            "WOODFROG_NATS_CALLOUT_DIR": str(seeds),
            "WOODFROG_NATS_URL": url,
            "WOODFROG_NATS_CA_FILE": str(broker.tls / "ca.crt"),
            "WOODFROG_NODE_SERVICE_ACCOUNT": f"{NAMESPACE}/{SERVICE_ACCOUNT}",
        }
        listening = asyncio.Event()
        running = asyncio.create_task(let_nodes_in(Settings.from_environment(told), listening))
        await asyncio.wait_for(listening.wait(), 20)
        control = await connect(url, name="control", seed_file=seeds / "control.seed", trust=broker.trust)
        await ensure_streams(control.jetstream())
        (tmp_path / "token").write_text(api.run_pod(POD, A, account=worker["serviceAccountName"]))
        node = await connect(
            url, name="node", inbox_prefix=subjects.inbox(A), token_file=tmp_path / "token", trust=broker.trust
        )
        assert await can_report(node, A)
        assert not await can_report(node, B)
        for client in (node, control):
            await client.close()
        context = broker.trust.context()
        for user in ("node", "control", "operator"):
            password = url.replace("tls://", f"tls://{user}:{broker.secret['node']}@")
            with pytest.raises(nats.errors.Error):
                await nats.connect(
                    password, tls=context, tls_handshake_first=True, allow_reconnect=False, max_reconnect_attempts=0
                )
        running.cancel()
    finally:
        broker.close()


def test_the_charts_workers_get_a_token_for_the_broker_and_no_password() -> None:
    objects = rendered()
    pod = one(objects, "DaemonSet", SERVICE_ACCOUNT)["spec"]["template"]["spec"]
    (token,) = [each for each in pod["volumes"] if each["name"] == "nats-token"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == AUDIENCE
    told = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    (place,) = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "nats-token"]
    assert told["WOODFROG_NATS_TOKEN_FILE"] == f"{place}/token"
    assert "NATS_PASSWORD" not in told
    rules = one(objects, "ClusterRole", f"{NAMESPACE}-woodfrog-tokens")["rules"]
    assert rules == [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
    own = one(objects, "Role", "woodfrog-controlplane")["rules"]
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]} in own


def test_the_chart_can_do_without_tokens() -> None:
    objects = rendered("nats.nodeTokens=false")
    pod = one(objects, "DaemonSet", SERVICE_ACCOUNT)["spec"]["template"]["spec"]
    assert "NATS_PASSWORD" in {each["name"] for each in pod["containers"][0]["env"]}
    (keys,) = one(objects, "StatefulSet", "woodfrog-nats")["spec"]["template"]["spec"]["initContainers"]
    assert "--callout" not in keys["command"]
    assert not [each for each in objects if each["metadata"]["name"].endswith("-tokens")]


def test_the_chart_ships_the_accounts_of_this_release() -> None:
    shipped = (ROOT / "helm/woodfrog/files/accounts.conf").read_text()
    assert shipped == (ROOT / "woodfrog/isolation/accounts.conf").read_text()


def test_a_secret_too_short_to_be_one_makes_no_keys(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="32 characters"):
        DerivedKeys("p" * 31)
    one_, other = DerivedKeys("p" * 32), DerivedKeys("q" * 32)
    for name, each in (("a", one_), ("b", other), ("again", one_)):
        each.write_seeds(tmp_path / name, CONTROL, OPERATOR, CALLOUT, ISSUER)
    seeds = {path: path.read_text() for path in tmp_path.rglob("*.seed")}
    assert len(set(seeds.values())) == 8
    assert all(path.stat().st_mode & 0o077 == 0 for path in seeds)
