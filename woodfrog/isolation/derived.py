"""Keys for the server's questions about connections, out of one random text that a chart can make.

Helm makes random text and keeps it in a Secret, but no Ed25519 keys. So the text is the secret, and whoever needs a part of
it derives that part when its pod starts: the broker's pod the configuration, which holds public keys only, and the control
plane's the two seeds. Both get the same keys each time, and nothing has to be written to the cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blake3 import blake3

from process.nkeys import KeyPair, Owner
from protocol.failures import Failure, FailureError
from woodfrog.isolation import CALLOUT, ISSUER, authorization, callout_users, write_secret

VARIABLE: Final = "WOODFROG_NATS_CALLOUT_SECRET"
_LEAST_CHARACTERS: Final = 32


class DerivedCallout:
    """What follows from one secret text."""

    def __init__(self, secret: str) -> None:
        """Derive both pairs.

        Raises:
            FailureError: ``callout-secret-short``.
        """
        if len(secret.strip()) < _LEAST_CHARACTERS:
            raise FailureError(
                Failure(
                    "callout-secret-short",
                    f"{VARIABLE} has fewer than {_LEAST_CHARACTERS} characters",
                    "Set it to a random text, such as `openssl rand -hex 32` prints, and the same for NATS and control planes.",
                )
            )
        material = secret.strip().encode()
        self._callout = KeyPair(blake3(material, derive_key_context="woodfrog.io 2026 NATS callout user").digest())
        issuer = blake3(material, derive_key_context="woodfrog.io 2026 NATS callout issuer").digest()
        self._issuer = KeyPair(issuer, Owner.ACCOUNT)

    def write_seeds(self, directory: Path) -> None:
        """Write what the control plane reads from ``WOODFROG_NATS_CALLOUT_DIR``."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, pair in ((CALLOUT, self._callout), (ISSUER, self._issuer)):
            write_secret(directory / f"{name}.seed", f"{pair.seed}\n")

    def write_configuration(self, directory: Path, listed: list[str]) -> None:
        """Write what ``accounts.conf`` includes; the users ``listed`` are let in without a question, by what the server knows."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "callout.conf").write_text(callout_users(self._callout.public))
        listed = [*listed, self._callout.public]
        (directory / "authorization.conf").write_text(authorization(self._issuer.public, listed))
