"""A key of its own for each snapshot, that only a control plane can give out.

All workers of a cluster hold the key of the store, so a node that was broken into could read every tenant's memory there. So a
worker makes a key for each snapshot that it stores, and keeps it beside the snapshot for nobody but control planes: wrapped
with their public key. Whoever is to restore the snapshot shows what is wrapped, and gets the key together with the decision.

Wrapping is ECIES: the shared secret of a pair made for this one key and the recipient's, through HKDF, seals it with AES-GCM.
The snapshot's name is vouched for with it. So what is wrapped for one snapshot is of no use for another, and a node cannot have
the key of a snapshot unwrapped that it was not asked to restore.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate

from woodfrog.protocol.ids import CheckpointKey, SnapshotId

DATA_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_POINT_BYTES: Final = 65
_TAG_BYTES: Final = 16
WRAPPED_BYTES: Final = _ID_BYTES + _POINT_BYTES + DATA_KEY_BYTES + _TAG_BYTES
_INFO: Final = b"woodfrog.io 2026-11 data key of a snapshot"
_NONCE: Final = bytes(12)
"""Each key that seals is made for one message."""
_PRIVATE: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


class DataKeyError(ValueError):
    """A file holds no key of the kind that is wanted, or a data key cannot be unwrapped; the message says which."""


def purpose(key: CheckpointKey, snapshot_id: SnapshotId) -> bytes:
    """Return what a data key is vouched for: the one snapshot that it is of."""
    return f"{key}/{snapshot_id}".encode()


class Recipient:
    """For whom data keys are wrapped: the public key of the control planes."""

    def __init__(self, public: ec.EllipticCurvePublicKey) -> None:
        self._public = public
        self.id = _id_of(public)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a certificate or a public key, in PEM, of the curve P-256.

        Raises:
            DataKeyError: it is none.
        """
        try:
            data = path.read_bytes()
            certified = b"BEGIN CERTIFICATE" in data
            public = load_pem_x509_certificate(data).public_key() if certified else load_pem_public_key(data)
        except (OSError, ValueError) as problem:
            raise DataKeyError(f"{path} holds no public key: {problem}") from problem
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise DataKeyError(f"{path} holds a public key of another kind than P-256")
        return cls(public)

    def wrap(self, data_key: bytes, use: bytes) -> bytes:
        """Wrap a data key for this use, so that only the recipient can read it."""
        own = ec.generate_private_key(ec.SECP256R1())
        point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        cipher = _cipher(own.exchange(ec.ECDH(), self._public), self.id, point)
        return self.id + point + cipher.encrypt(_NONCE, data_key, use)


class Unwrapper:
    """The private keys of the control planes: the one that is used, and any before it."""

    def __init__(self, private: list[ec.EllipticCurvePrivateKey]) -> None:
        self._private = {_id_of(each.public_key()): each for each in private}

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read private keys, in PEM, one after the other.

        Raises:
            DataKeyError: there is none, or one of another kind than P-256.
        """
        try:
            found = [load_pem_private_key(each, None) for each in _PRIVATE.findall(path.read_bytes())]
        except (OSError, ValueError, TypeError) as problem:
            raise DataKeyError(f"{path} holds a private key that cannot be read: {type(problem).__name__}") from problem
        private = [each for each in found if isinstance(each, ec.EllipticCurvePrivateKey)]
        if (
            not private
            or len(private) < len(found)
            or not all(isinstance(each.curve, ec.SECP256R1) for each in private)
        ):
            raise DataKeyError(f"{path} holds no private key of the curve P-256, or others as well")
        return cls(private)

    def unwrap(self, wrapped: bytes, use: bytes) -> bytes:
        """Return the data key.

        Raises:
            DataKeyError: it was wrapped for somebody else, or for another use.
        """
        ident, point = wrapped[:_ID_BYTES], wrapped[_ID_BYTES : _ID_BYTES + _POINT_BYTES]
        private = self._private.get(ident)
        if private is None:
            raise DataKeyError(f"it was wrapped for the key {ident.hex()}, which is not here")
        try:
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            cipher = _cipher(private.exchange(ec.ECDH(), theirs), ident, point)
            return cipher.decrypt(_NONCE, wrapped[_ID_BYTES + _POINT_BYTES :], use)
        except (ValueError, InvalidTag) as problem:
            raise DataKeyError("it is not of this snapshot, or was changed") from problem


def to_text(data: bytes) -> str:
    """Write a key, wrapped or not, as messages carry it."""
    return base64.b64encode(data).decode()


def from_text(text: str) -> bytes:
    """Read what :func:`to_text` wrote.

    Raises:
        DataKeyError: it did not.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as problem:
        raise DataKeyError("it is not written as a key is") from problem


def _id_of(public: ec.EllipticCurvePublicKey) -> bytes:
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()[:_ID_BYTES]


def _cipher(shared: bytes, ident: bytes, point: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), DATA_KEY_BYTES, salt=None, info=_INFO + ident + point).derive(shared))
