"""A nats-server that runs the configuration that is shipped; only where it listens and stores is the test's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Literal
from unittest import mock

from nats.aio.client import Client

from controlplane.app import let_nodes_in
from controlplane.settings import Settings
from support.servers import NATS_SERVER, START_SECONDS, wait_for
from support.tokens import NAMESPACE, SERVICE_ACCOUNT, TokenApi
from woodfrog.isolation import CALLOUT, CONTROL, OPERATOR, Isolation
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName
from woodfrog.service.nats import connect

Mode = Literal["keys", "tokens"]
"""How the server knows a node: by a key in its configuration, or by a token that it asks the control plane about."""


class IsolatedServer:
    """The server, its keys, and connections with them."""

    def __init__(self, folder: Path, *nodes: str, mode: Mode = "keys", kubernetes: TokenApi | None = None) -> None:
        self.isolation = Isolation(folder / "nats")
        self.isolation.make(callout=mode == "tokens")
        self.mode = mode
        self._kubernetes = kubernetes
        self._tokens = folder / "tokens"
        self._tokens.mkdir()
        self._letting_in: asyncio.Task[None] | None = None
        for node in nodes:
            self.add_node(node)
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

    def add_node(self, node: str) -> None:
        """Let a node in."""
        if self.mode == "keys":
            self.isolation.add_node(NodeName(node))
        else:
            assert self._kubernetes is not None
            self.token_file(node).write_text(self._kubernetes.run_pod(f"worker-on-{node}", node))

    def token_file(self, node: str) -> Path:
        """Where the kubelet of a node keeps its worker's token."""
        return self._tokens / node

    @property
    def callout(self) -> dict[str, str]:
        """How a control plane is told that the server asks it; nothing if it does not."""
        if self.mode == "keys":
            return {}
        assert self._kubernetes is not None
        return {
            "WOODFROG_NATS_CALLOUT_DIR": str(self.isolation.seed_file(CALLOUT).parent),
            "WOODFROG_NODE_SERVICE_ACCOUNT": f"{NAMESPACE}/{SERVICE_ACCOUNT}",
            "KUBECONFIG": str(self._kubernetes.kubeconfig),
        }

    async def let_in(self) -> None:
        """Answer the server as a control plane does, in this process."""
        if self.mode == "tokens":
            environment = {"WOODFROG_DATABASE_URL": "unused://", "WOODFROG_NATS_URL": self.url, **self.callout}
            with mock.patch.dict(os.environ, environment):
                listening = asyncio.Event()
                self._letting_in = asyncio.create_task(let_nodes_in(Settings.from_environment(environment), listening))
                await asyncio.wait_for(listening.wait(), START_SECONDS)

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

    def credentials(self, node: str) -> dict[str, Path]:
        """What a node proves itself by, as arguments of :func:`woodfrog.service.nats.connect`."""
        if self.mode == "tokens":
            return {"token_file": self.token_file(node)}
        return {"seed_file": self.isolation.seed_file(subjects.token(node))}

    async def as_control(self) -> Client:
        """Connect as the control plane."""
        return await self._kept(await connect(self.url, name="control", seed_file=self.control_seed))

    async def as_operator(self) -> Client:
        """Connect as a person."""
        return await self._kept(await connect(self.url, name="person", seed_file=self.operator_seed))

    async def as_node(self, node: str, *, inbox_of: str | None = None) -> Client:
        """Connect as a node; what it does then is up to the test."""
        prefix = subjects.inbox(NodeName(inbox_of or node))
        client = await connect(self.url, name=node, inbox_prefix=prefix, **self.credentials(node))
        return await self._kept(client)

    async def _kept(self, client: Client) -> Client:
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """End everything."""
        for client in self._clients:
            await client.close()
        self._process.terminate()
        self._process.wait(START_SECONDS)
        if self._letting_in is not None:
            self._letting_in.cancel()
            with suppress(asyncio.CancelledError):
                await self._letting_in
