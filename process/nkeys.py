"""NATS's keys: an Ed25519 pair in the notation of nkeys, made, read and signed with.

The notation is that of nats-io/nkeys (strkey.go): base32 without padding of prefix bytes, the 32 bytes of the key and a
CRC-16/XMODEM, little-endian. A user's public key begins with ``U``; a seed begins with ``S`` and its owner's letter, ``SU``.
The server sends a nonce and gets it back signed, so a seed never leaves the machine that holds it.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Final, Self

from nacl.signing import SigningKey

_SEED: Final = 18 << 3
_USER: Final = 20 << 3
_SEED_LENGTH: Final = 58


class InvalidSeedError(ValueError):
    """A file without a user's seed; the message names the file and never the content."""


def _written(payload: bytes) -> str:
    checked = payload + binascii.crc_hqx(payload, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


class KeyPair:
    """One user's keys."""

    def __init__(self, secret: bytes) -> None:
        self._signing = SigningKey(secret)

    @classmethod
    def new(cls) -> Self:
        """Make a pair out of the system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a pair from the file with its seed.

        Raises:
            InvalidSeedError: if there is none.
        """
        try:
            return cls.from_seed(path.read_text(encoding="ascii").strip())
        except OSError as problem:
            raise InvalidSeedError(f"the nkey seed {path} cannot be read: {problem.strerror}") from problem
        except ValueError as problem:
            raise InvalidSeedError(f"{path} does not hold the nkey seed of a user") from problem

    @classmethod
    def from_seed(cls, seed: str) -> Self:
        """Read a pair from its seed.

        Raises:
            ValueError: if it is none of a user.
        """
        if len(seed) != _SEED_LENGTH:
            raise ValueError("not the length of a seed")
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        payload, checksum = raw[:-2], raw[-2:]
        if binascii.crc_hqx(payload, 0).to_bytes(2, "little") != checksum:
            raise ValueError("the checksum is wrong")
        # The five bits of each prefix are packed: the seed's into the first byte with the owner's first three.
        if (payload[0] & 0xF8, (payload[0] & 0x07) << 5 | (payload[1] & 0xF8) >> 3) != (_SEED, _USER):
            raise ValueError("not a user's seed")
        return cls(payload[2:])

    @property
    def seed(self) -> str:
        """The secret."""
        head = bytes([_SEED | _USER >> 5, (_USER & 0x1F) << 3])
        return _written(head + bytes(self._signing))

    @property
    def public(self) -> str:
        """What the server's configuration knows the user by."""
        return _written(bytes([_USER]) + bytes(self._signing.verify_key))

    def signature(self, nonce: str) -> bytes:
        """Sign a server's nonce, in base64 as nats-py sends it."""
        return base64.b64encode(self._signing.sign(nonce.encode()).signature)
