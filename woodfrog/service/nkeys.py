"""NATS's keys: an Ed25519 pair in the notation of nkeys, made, read, signed with and checked against.

The notation is that of nats-io/nkeys (strkey.go): base32 without padding of prefix bytes, the 32 bytes of the key and a
CRC-16/XMODEM, little-endian. A public key begins with its owner's letter, ``U`` for a user; a seed begins with ``S`` and that
letter, ``SU``. The server sends a nonce and gets it back signed, so a seed never leaves the machine that holds it.
"""

from __future__ import annotations

import base64
import binascii
import os
from enum import IntEnum
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SEED: Final = 18 << 3
_SEED_LENGTH: Final = 58
_PUBLIC_LENGTH: Final = 56


class Owner(IntEnum):
    """Whose a key is: the byte from which base32 makes the letter in front."""

    ACCOUNT = 0
    SERVER = 13 << 3
    USER = 20 << 3


class InvalidSeedError(ValueError):
    """A file without a seed of the owner that it is to be of; the message names the file and never the content."""


class InvalidPublicKeyError(ValueError):
    """A text that is not a public key of the owner that it is to be of."""


def _written(payload: bytes) -> str:
    checked = payload + binascii.crc_hqx(payload, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _read(text: str, length: int) -> bytes:
    if len(text) != length:
        raise ValueError("not the length of a key")
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    payload, checksum = raw[:-2], raw[-2:]
    if binascii.crc_hqx(payload, 0).to_bytes(2, "little") != checksum:
        raise ValueError("the checksum is wrong")
    return payload


def public_bytes(public: str, owner: Owner) -> bytes:
    """Read a public key.

    Raises:
        InvalidPublicKeyError: it is none of this owner.
    """
    try:
        payload = _read(public, _PUBLIC_LENGTH)
    except ValueError as problem:
        raise InvalidPublicKeyError(f"no public nkey: {problem}") from problem
    if payload[0] != owner:
        raise InvalidPublicKeyError(f"not the public nkey of one {owner.name.lower()}")
    return payload[1:]


def signed_by(public: str, owner: Owner, data: bytes, signature: bytes) -> bool:
    """Tell whether the holder of a public key signed the data.

    Raises:
        InvalidPublicKeyError: it is not a key of this owner.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes(public, owner)).verify(signature, data)
    except (InvalidSignature, ValueError) as problem:
        if isinstance(problem, InvalidPublicKeyError):
            raise
        return False
    return True


class KeyPair:
    """One user's keys, or an account's."""

    def __init__(self, secret: bytes, owner: Owner = Owner.USER) -> None:
        self._signing = Ed25519PrivateKey.from_private_bytes(secret)
        self._owner = owner

    @classmethod
    def new(cls, owner: Owner = Owner.USER) -> Self:
        """Make a pair out of the system's randomness."""
        return cls(os.urandom(32), owner)

    @classmethod
    def from_file(cls, path: Path, owner: Owner = Owner.USER) -> Self:
        """Read a pair from the file with its seed.

        Raises:
            InvalidSeedError: if there is none.
        """
        try:
            return cls.from_seed(path.read_text(encoding="ascii").strip(), owner)
        except OSError as problem:
            raise InvalidSeedError(f"the nkey seed {path} cannot be read: {problem.strerror}") from problem
        except ValueError as problem:
            raise InvalidSeedError(f"{path} does not hold the nkey seed of one {owner.name.lower()}") from problem

    @classmethod
    def from_seed(cls, seed: str, owner: Owner = Owner.USER) -> Self:
        """Read a pair from its seed.

        Raises:
            ValueError: if it is none of this owner.
        """
        payload = _read(seed, _SEED_LENGTH)
        # The five bits of each prefix are packed: the seed's into the first byte with the owner's first three.
        if (payload[0] & 0xF8, (payload[0] & 0x07) << 5 | (payload[1] & 0xF8) >> 3) != (_SEED, owner):
            raise ValueError(f"not the seed of one {owner.name.lower()}")
        return cls(payload[2:], owner)

    @property
    def seed(self) -> str:
        """The secret."""
        head = bytes([_SEED | self._owner >> 5, (self._owner & 0x1F) << 3])
        return _written(head + self._signing.private_bytes_raw())

    @property
    def public(self) -> str:
        """What everybody knows the owner by."""
        return _written(bytes([self._owner]) + self._signing.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """Sign, so that :func:`signed_by` holds."""
        return self._signing.sign(data)

    def signature(self, nonce: str) -> bytes:
        """Sign a server's nonce, in base64 as nats-py sends it."""
        return base64.b64encode(self.sign(nonce.encode()))
