"""What may be set about the HTTP API. It is off unless somebody says where it listens and who may read."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from woodfrog.service.env import Env, InvalidSettingError
from woodfrog.service.http import Address


class ApiSettings(msgspec.Struct, frozen=True):
    """Where the API listens, and how it knows who asks."""

    address: Address
    """``WOODFROG_API_ADDRESS``; the API is not served if it is not set."""
    tokens_file: Path | None = None
    """``WOODFROG_API_TOKENS_FILE``: see :mod:`controlplane.http.api.tokens`."""
    kubernetes: bool = False
    """``WOODFROG_API_KUBERNETES``: ``on`` to take tokens that Kubernetes knows."""
    certificate_file: Path | None = None
    """``WOODFROG_API_CERTIFICATE_FILE`` and ``WOODFROG_API_KEY_FILE``: PEM; read again when they change."""
    key_file: Path | None = None
    actions: bool = False
    """``WOODFROG_API_ACTIONS``: ``on`` to let those who may change something over the API."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ApiSettings | None:
        """Read the settings; ``None`` if there is to be no API.

        Raises:
            InvalidSettingError: naming the variable.
        """
        env = Env(environment)
        address = env.address("WOODFROG_API_ADDRESS")
        if address is None:
            return None
        kubernetes = env.switch("WOODFROG_API_KUBERNETES")
        tokens_file = env.file("WOODFROG_API_TOKENS_FILE")
        if tokens_file is None and not kubernetes:
            raise InvalidSettingError(
                "WOODFROG_API_ADDRESS is set, so WOODFROG_API_TOKENS_FILE or WOODFROG_API_KUBERNETES=on is needed: "
                "the API is never served without authentication"
            )
        certificate_file = env.file("WOODFROG_API_CERTIFICATE_FILE")
        key_file = env.file("WOODFROG_API_KEY_FILE")
        if (certificate_file is None) != (key_file is None):
            raise InvalidSettingError(
                "WOODFROG_API_CERTIFICATE_FILE and WOODFROG_API_KEY_FILE belong together; one of them is not set"
            )
        if certificate_file is None and not _is_loopback(address.host) and not env.switch("WOODFROG_API_INSECURE"):
            raise env.invalid(
                "WOODFROG_API_ADDRESS",
                "others can reach that: set WOODFROG_API_CERTIFICATE_FILE, listen on 127.0.0.1, or set WOODFROG_API_INSECURE=on to "
                "have tokens sent unencrypted",
            )
        actions = env.switch("WOODFROG_API_ACTIONS")
        return cls(address, tokens_file, kubernetes, certificate_file, key_file, actions)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
