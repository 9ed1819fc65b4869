"""NATS's keys out of one random text that a chart can make.

Helm makes random text and keeps it in a Secret, but no Ed25519 keys. So the text is the secret, and whoever needs a part of
it derives that part when its pod starts: the broker's pod the configuration, which holds public keys only, and the others
their seeds. Everybody gets the same keys each time, nothing has to be written to the cluster, and neither the text nor a seed
ever goes over a wire: who holds a seed signs what the server sends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blake3 import blake3

from woodfrog.isolation import CALLOUT, CONTROL, ISSUER, OPERATOR, authorization, callout_users, key_user, write_secret
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.nkeys import KeyPair, Owner

VARIABLE: Final = "WOODFROG_NATS_CALLOUT_SECRET"
_LEAST_CHARACTERS: Final = 32
_CONTEXTS: Final = {
    CONTROL: "woodfrog.io 2026 NATS control plane",
    OPERATOR: "woodfrog.io 2026 NATS operator",
    CALLOUT: "woodfrog.io 2026 NATS callout user",
    ISSUER: "woodfrog.io 2026 NATS callout issuer",
}


class DerivedKeys:
    """What follows from one secret text."""

    def __init__(self, secret: str) -> None:
        """Derive all pairs.

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
        self._pairs = {
            name: KeyPair(
                blake3(material, derive_key_context=context).digest(), Owner.ACCOUNT if name == ISSUER else Owner.USER
            )
            for name, context in _CONTEXTS.items()
        }

    def write_seeds(self, directory: Path, *names: str) -> None:
        """Write the seeds of those who are named, each into a file of its own."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            write_secret(directory / f"{name}.seed", f"{self._pairs[name].seed}\n")

    def write_server(self, directory: Path, *, callout: bool) -> None:
        """Write what ``accounts.conf`` includes: users, and with ``callout`` that somebody is asked about all others."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = {name: pair.public for name, pair in self._pairs.items()}
        (directory / "control.conf").write_text(key_user(public[CONTROL]))
        (directory / "people.conf").write_text(key_user(public[OPERATOR]))
        if callout:
            (directory / "callout.conf").write_text(callout_users(public[CALLOUT]))
            listed = [public[CONTROL], public[OPERATOR], public[CALLOUT]]
            (directory / "authorization.conf").write_text(authorization(public[ISSUER], listed))
