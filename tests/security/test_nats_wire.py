"""Nothing secret is on the way to NATS for anybody to read, and nobody on the way can have it said in the clear."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from support.chart import one
from support.charted_nats import ChartedNats
from support.tokens import NAMESPACE, SERVICE_ACCOUNT, TokenApi
from support.worker import eventually

from controlplane.app import let_nodes_in
from controlplane.bus.streams import ensure_streams
from controlplane.settings import Settings
from nodeworker.host import doctor
from nodeworker.host.install import Options
from nodeworker.host.paths import Places
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName
from woodfrog.service import nats as connecting
from woodfrog.service import natstls
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.nats import connect
from woodfrog.service.natstls import CA_FILE, INSECURE, InsecureConnectionError, Trust
from woodfrog.service.nkeys import KeyPair

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]

NODE = NodeName("node-1")
TOKEN = "a-token-that-nobody-else-may-see"


@pytest.fixture(autouse=True)
def forgotten_transports() -> Iterator[None]:
    """Of connections that failed, collected here where they are known."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ChartedNats]:
    made = ChartedNats(tmp_path / "release")
    made.start()
    yield made
    made.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


class Wire:
    """Passes connections on to a port, or to nobody, and keeps every byte that went by."""

    def __init__(self, port: int | None = None, greeting: bytes = b"") -> None:
        self._port = port
        self._greeting = greeting
        self.said = bytearray()
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError):
            if self._port is None:
                writer.write(self._greeting)
                while data := await reader.read(65536):
                    self.said += data
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
                there = asyncio.create_task(self._pump(reader, far_writer))
                await self._pump(far_reader, writer)
                there.cancel()
                far_writer.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.said += data
                writer.write(data)
                await writer.drain()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


def greeting(**said: object) -> bytes:
    info = {
        "server_id": "N",
        "version": "2.15.1",
        "proto": 1,
        "max_payload": 1048576,
        "nonce": "n",
        "auth_required": True,
    }
    return f"INFO {json.dumps(info | said)}\r\n".encode()


@asynccontextmanager
async def trying(connection: Awaitable[Client]) -> AsyncIterator[asyncio.Task[Client]]:
    task = asyncio.ensure_future(connection)
    assert isinstance(task, asyncio.Task)
    try:
        yield task
    finally:
        if task.done() and not task.cancelled() and task.exception() is None:
            await task.result().close()
        task.cancel()
        with suppress(asyncio.CancelledError, nats.errors.Error, OSError):
            await task


@pytest.mark.parametrize(
    "said", [{}, {"tls_required": False}, {"tls_available": True}], ids=["nothing", "no", "if you like"]
)
@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_who_takes_tls_out_of_the_greeting_gets_no_credential(
    token_file: Path, broker: ChartedNats, scheme: str, said: dict[str, object]
) -> None:
    wire = Wire(greeting=greeting(**said))
    async with wire.listening() as address:
        connection = connect(f"{scheme}://{address}", name="x", token_file=token_file, trust=broker.trust)
        async with trying(connection):
            await eventually(lambda: _is(b"\x16\x03\x01" in wire.said), saying="it begins with TLS all the same")
    assert TOKEN.encode() not in wire.said
    assert b"CONNECT" not in wire.said


async def _is(verdict: bool) -> bool:
    return verdict


@pytest.mark.parametrize(
    ("secrets", "sent"),
    [("token", False), ("password", False), ("insecure", True), ("seed", True)],
)
async def test_without_tls_no_secret_leaves_this_machine_unless_that_was_asked_for(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch, secrets: str, sent: bool
) -> None:
    monkeypatch.setattr(natstls, "_is_this_machine", lambda address: False)
    complaints: list[BaseException] = []
    monkeypatch.setattr(connecting._log, "awarning", _noting(complaints))
    seed = tmp_path / "seed"
    seed.write_text(KeyPair.new().seed)
    wire = Wire(greeting=greeting())
    async with wire.listening() as address:
        match secrets:
            case "token":
                connection = connect(f"nats://{address}", name="x", token_file=token_file)
            case "password":
                connection = connect(f"nats://u:{TOKEN}@{address}", name="x")
            case "insecure":
                connection = connect(f"nats://{address}", name="x", token_file=token_file, trust=Trust(insecure=True))
            case _:
                connection = connect(f"nats://{address}", name="x", seed_file=seed)
        async with trying(connection):
            done = (lambda: _is(b"CONNECT" in wire.said)) if sent else (lambda: _is(bool(complaints)))
            await eventually(done, saying="it says who it is, or why not")
    assert (b"CONNECT" in wire.said) is sent
    assert (TOKEN.encode() in wire.said) is (secrets == "insecure")
    if not sent:
        assert isinstance(complaints[0], InsecureConnectionError)
        assert INSECURE in str(complaints[0])
        assert TOKEN not in str(complaints[0])


def _noting(kept: list[BaseException]) -> Callable[..., Awaitable[None]]:
    async def note(_: str, *, error: BaseException | None = None) -> None:
        if error is not None:
            kept.append(error)

    return note


async def test_on_this_machine_a_password_needs_no_tls() -> None:
    wire = Wire(greeting=greeting())
    async with wire.listening() as address, trying(connect(f"nats://u:{TOKEN}@{address}", name="x")):
        await eventually(lambda: _is(TOKEN.encode() in wire.said), saying="it says who it is")


def test_what_counts_as_this_machine() -> None:
    assert [natstls._is_this_machine(each) for each in ("127.0.0.1", "127.8.8.8", "::1")] == [True] * 3
    assert [natstls._is_this_machine(each) for each in ("10.0.0.1", "0.0.0.0", "fe80::1%eth0", "?", "")] == [False] * 5


def test_the_variables_mean_what_they_say() -> None:
    assert Trust.from_environment({}) == Trust()
    assert Trust.from_environment({CA_FILE: "/ca.crt", INSECURE: "on"}) == Trust(Path("/ca.crt"), insecure=True)
    with pytest.raises(InvalidSettingError, match=INSECURE):
        Trust.from_environment({INSECURE: "yes"})


async def test_a_server_that_nobody_vouches_for_gets_nothing_and_is_tried_until_somebody_does(
    tmp_path: Path, broker: ChartedNats, token_file: Path
) -> None:
    ca = tmp_path / "ca.crt"
    other = ChartedNats(tmp_path / "other", {"commonLabels": {"another": "ca"}})
    ca.write_bytes((other.tls / "ca.crt").read_bytes())
    wire = Wire(int(broker.urls[0].rpartition(":")[2]))
    seed = broker.seeds("Deployment", "woodfrog-controlplane") / "control.seed"
    async with (
        wire.listening() as address,
        trying(connect(f"tls://{address}", name="x", seed_file=seed, trust=Trust(ca))) as task,
    ):
        await eventually(lambda: _is(wire.connections >= 2), saying="it tries")
        assert not task.done()
        assert b"CONNECT" not in wire.said
        ca.write_bytes((broker.tls / "ca.crt").read_bytes())  # as the kubelet does when the Secret has changed
        assert (await asyncio.wait_for(asyncio.shield(task), 30)).is_connected


async def test_a_server_of_another_name_is_not_taken_for_ours(broker: ChartedNats) -> None:
    port = broker.urls[0].rpartition(":")[2]
    seed = broker.seeds("Deployment", "woodfrog-controlplane") / "control.seed"
    async with trying(connect(f"tls://127.0.0.2:{port}", name="x", seed_file=seed, trust=broker.trust)) as task:
        await asyncio.sleep(3)
        assert not task.done()


async def test_the_charts_broker_is_spoken_to_without_a_readable_word(
    tmp_path: Path, broker: ChartedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = one(broker.manifests, "Deployment", "woodfrog-controlplane")["spec"]["template"]["spec"]["containers"][0]
    worker = one(broker.manifests, "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]["containers"][0]
    for container in (plane, worker):
        said = broker.variables(container)
        assert said["WOODFROG_NATS_URL"] == "tls://woodfrog-nats.wf.svc:4222"
        (place,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "nats-ca"]
        assert said["WOODFROG_NATS_CA_FILE"] == f"{place}/ca.crt"
    seeds = broker.seeds("Deployment", "woodfrog-controlplane")
    operator = broker.seeds("Pod", "woodfrog-test") / "operator.seed"
    wire = Wire(int(broker.urls[0].rpartition(":")[2]))
    async with TokenApi(tmp_path) as api, wire.listening() as address:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        environment = broker.variables(plane) | {
            "WOODFROG_DATABASE_URL": "unused://", "WOODFROG_NATS_URL": f"tls://{address}", CA_FILE: str(broker.tls / "ca.crt"),
            "WOODFROG_NATS_CALLOUT_DIR": str(seeds), "WOODFROG_NODE_SERVICE_ACCOUNT": f"{NAMESPACE}/{SERVICE_ACCOUNT}",
        }  # fmt: skip
        settings = Settings.from_environment(environment)
        listening = asyncio.Event()
        answering = asyncio.create_task(let_nodes_in(settings, listening))
        await asyncio.wait_for(listening.wait(), 20)
        token = api.run_pod("worker", NODE)
        (tmp_path / "token").write_text(token)
        clients = [
            await connect(
                settings.nats_url, name="control", seed_file=seeds / "control.seed", trust=settings.nats_trust
            ),
            await connect(settings.nats_url, name="person", seed_file=operator, trust=settings.nats_trust),
            await connect(
                settings.nats_url,
                name="node",
                token_file=tmp_path / "token",
                inbox_prefix=subjects.inbox(NODE),
                trust=settings.nats_trust,
            ),
        ]
        await ensure_streams(clients[0].jetstream())
        await clients[2].jetstream().publish(subjects.reports(NODE), b"a report", stream=subjects.REPORTS_STREAM)
        for client in clients:
            await client.close()
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
    assert len(wire.said) > 10_000
    for secret in (
        b"CONNECT",
        b"INFO",
        b"a report",
        token.encode(),
        *(text.encode() for text in broker.secret.values()),
    ):
        assert secret not in wire.said


async def test_who_comes_in_the_clear_is_not_even_greeted(broker: ChartedNats) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(broker.urls[0].rpartition(":")[2]))
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    with suppress(OSError):
        assert b"INFO" not in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_older_workers_are_let_in_during_an_upgrade_and_newer_ones_still_insist(
    tmp_path: Path, token_file: Path
) -> None:
    values = {"nats": {"nodeTokens": False, "tls": {"allowPlain": "always"}}}
    broker = ChartedNats(tmp_path / "release", values)
    address = broker.start()
    try:
        password = broker.secret["node"]
        async with await nats.connect(f"nats://node:{password}@{address}", allow_reconnect=False) as older:
            assert older.is_connected
        newer = await connect(f"tls://node:{password}@{address}", name="x", trust=broker.trust)
        assert newer._is_encrypted()  # type: ignore[attr-defined]
        await newer.close()
    finally:
        broker.close()


@pytest.mark.parametrize("first", [True, False], ids=["handshake first", "greeting first"])
def test_a_nodes_doctor_speaks_to_nats_as_its_worker_does(tmp_path: Path, first: bool) -> None:
    broker = ChartedNats(tmp_path / "release", {"nats": {"tls": {"handshakeFirst": first}}})
    other = ChartedNats(tmp_path / "other", {"commonLabels": {"another": "ca"}})
    address = broker.start()
    try:
        said = doctor._nats(
            Options(places=Places()), {"WOODFROG_NATS_URL": f"tls://{address}", CA_FILE: str(broker.tls / "ca.crt")}
        )
        assert (said.state, said.found) == ("ok", f"tls://{address}, encrypted")
        said = doctor._nats(
            Options(places=Places()), {"WOODFROG_NATS_URL": f"tls://{address}", CA_FILE: str(other.tls / "ca.crt")}
        )
        assert said.state == "failed"
        assert CA_FILE in said.advice
    finally:
        broker.close()


async def test_three_servers_speak_to_one_another_by_certificates_alone(tmp_path: Path) -> None:
    broker = ChartedNats(tmp_path / "release", {"nats": {"replicas": 3}})
    # Another CA; the password for routes is the same.
    stranger = ChartedNats(tmp_path / "stranger", {"nats": {"replicas": 3}, "commonLabels": {"another": "ca"}})
    stranger.secret = broker.secret
    stranger._routes = [*broker._routes[:2], stranger._routes[2]]
    try:
        for place in range(3):
            broker.start(place)
        seed = broker.seeds("Deployment", "woodfrog-controlplane") / "control.seed"
        client = await connect(f"tls://{broker.urls[0]}", name="x", seed_file=seed, trust=broker.trust)
        jetstream = client.jetstream(timeout=2)

        async def copied() -> bool:
            with suppress(nats.errors.Error, TimeoutError):
                await ensure_streams(jetstream)
                found = (await jetstream.stream_info(subjects.REPORTS_STREAM)).config
                await jetstream.update_stream(found.evolve(num_replicas=3))
                return True
            return False

        await eventually(copied, saying="a stream has three copies", seconds=60)
        await client.close()
        stranger.start(2)
        await eventually(lambda: _is("TLS route handshake error" in stranger.log(2)), saying="it is turned away")
        await eventually(lambda: _is("TLS route handshake error" in broker.log(0)), saying="by whom it asked, too")
    finally:
        broker.close()
        stranger.close()
