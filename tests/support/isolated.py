"""A nats-server that runs the configuration that is shipped; only where it listens and stores is the test's."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from nats.aio.client import Client

from process.nats import connect
from protocol import subjects
from protocol.ids import NodeName
from support.servers import NATS_SERVER, START_SECONDS, wait_for
from woodfrog.isolation import CONTROL, OPERATOR, Isolation


class IsolatedServer:
    """The server, its keys, and connections with them."""

    def __init__(self, folder: Path, *nodes: str) -> None:
        self.isolation = Isolation(folder / "nats")
        self.isolation.make()
        for node in nodes:
            self.isolation.add_node(NodeName(node))
        self.log = folder / "nats.log"
        ports = folder / "ports"
        ports.mkdir()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    NATS_SERVER, "--config", self.isolation.server_configuration, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", ports,
                ],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        self.url: str = wait_for(lambda: self._url(ports), saying="nats-server listens")
        self._clients: list[Client] = []

    def _url(self, ports: Path) -> str | None:
        assert self._process.poll() is None, self.log.read_text()
        for file in ports.glob("*.ports"):
            try:
                return str(json.loads(file.read_text())["nats"][0])
            except (ValueError, LookupError):
                return None
        return None

    def reload(self) -> None:
        """Tell it to read its configuration again, and wait until it has."""
        said = self.log.read_text().count("Reloaded server configuration")
        self._process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.log.read_text().count("Reloaded server configuration") > said, saying="it reloads")

    @property
    def control_seed(self) -> Path:
        """The control plane's."""
        return self.isolation.seed_file(CONTROL)

    @property
    def operator_seed(self) -> Path:
        """A person's."""
        return self.isolation.seed_file(OPERATOR)

    def node_seed(self, node: str) -> Path:
        """A node's."""
        return self.isolation.seed_file(subjects.token(node))

    async def as_control(self) -> Client:
        """Connect as the control plane."""
        return await self._kept(await connect(self.url, name="control", seed_file=self.control_seed))

    async def as_operator(self) -> Client:
        """Connect as a person."""
        return await self._kept(await connect(self.url, name="person", seed_file=self.operator_seed))

    async def as_node(self, node: str, *, inbox_of: str | None = None) -> Client:
        """Connect with a node's key; what it does then is up to the test."""
        prefix = subjects.inbox(NodeName(inbox_of or node))
        return await self._kept(await connect(self.url, name=node, seed_file=self.node_seed(node), inbox_prefix=prefix))

    async def _kept(self, client: Client) -> Client:
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """End everything."""
        for client in self._clients:
            await client.close()
        self._process.terminate()
        self._process.wait(START_SECONDS)
