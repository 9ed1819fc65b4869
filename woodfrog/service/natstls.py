"""Whom a NATS connection trusts, and what is not sent over one that somebody on the way can read.

nats-py encrypts if the server asks for it in its greeting, which comes in the clear: whoever is on the way takes that word out, and
reads the password or token that follows. So whether a connection is to be encrypted is decided here, by the URL's scheme or a
CA file, and nothing that the server says can undo it; and without either, a secret is sent on this machine only.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec
import nats.errors

from woodfrog.service.env import Env

CA_FILE: Final = "WOODFROG_NATS_CA_FILE"
INSECURE: Final = "WOODFROG_NATS_INSECURE"
_LONGEST_GREETING_BYTES: Final = 64 * 1024


class InsecureConnectionError(nats.errors.Error):
    """A secret was to be sent over a connection that is not encrypted; the message says what to set."""


class Trust(msgspec.Struct, frozen=True):
    """How a connection is protected."""

    ca_file: Path | None = None
    """``WOODFROG_NATS_CA_FILE``: certificates of who may vouch for NATS, in PEM; unset: those of the system. Read at every connection."""
    insecure: bool = False
    """``WOODFROG_NATS_INSECURE``: ``on`` to send passwords and tokens over connections without TLS as well."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables.

        Raises:
            InvalidSettingError: one of them cannot be meant.
        """
        env = Env(environment)
        return cls(env.file(CA_FILE), env.switch(INSECURE))

    def encrypts(self, url: str) -> bool:
        """Return whether connections to this URL are encrypted, whatever the server says."""
        return urlsplit(url).scheme == "tls" or self.ca_file is not None

    def context(self) -> ssl.SSLContext:
        """Read the certificates of who may vouch for the server.

        Raises:
            OSError: they cannot be read.
        """
        return ssl.create_default_context(cafile=self.ca_file)

    def check(self, *, encrypted: bool, peer: str, secret: bool) -> None:
        """Refuse to send a secret to a peer at this address over the network in the clear.

        Raises:
            InsecureConnectionError: that was to be done.
        """
        if secret and not (encrypted or self.insecure or _is_this_machine(peer)):
            raise InsecureConnectionError(
                f"nats: the connection to {peer} is not encrypted, so no password and no token is sent over it; "
                f"use TLS (a tls:// URL, and {CA_FILE}), or set {INSECURE}=on"
            )


def greeting(url: str, trust: Trust, *, seconds: float) -> tuple[bytes, bool]:
    """Return the first bytes that a server says, and whether they, or what follows them, are encrypted.

    Raises:
        OSError: it does not answer, or (``ssl.SSLError``) is not one that is to be trusted.
    """
    address = urlsplit(url)
    there = (address.hostname or "", address.port or 4222)
    if not trust.encrypts(url):
        with socket.create_connection(there, timeout=seconds) as connection:
            return connection.recv(4), False
    context = trust.context()
    try:
        with (
            socket.create_connection(there, timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=address.hostname) as encrypted,
        ):
            return encrypted.recv(4), True
    except ssl.SSLError as problem:
        if isinstance(problem, ssl.SSLCertVerificationError):
            raise
    with socket.create_connection(there, timeout=seconds) as connection, connection.makefile("rb") as lines:
        said = lines.readline(_LONGEST_GREETING_BYTES)
        with context.wrap_socket(connection, server_hostname=address.hostname):
            return said[:4], True


def _is_this_machine(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
