"""The keys by which a store is sealed, read from a file; and everything that is derived from one.

A key never touches data itself. For every object another key is derived from it and from random bytes of the object's own, so
that no two objects share one, whoever wrote them. Names are derived with a third, so that equal content of two
namespaces has unrelated names, and nobody without the key can tell what a name was made of.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final, Self

from blake3 import blake3

from woodfrog.protocol.failures import Failure, FailureError

KEY_BYTES: Final = 32
ID_BYTES: Final = 8
_OBJECT: Final = "woodfrog.io 2026-11 snapshot store: key of one object"
_NAMES: Final = "woodfrog.io 2026-11 snapshot store: names"
_ID: Final = "woodfrog.io 2026-11 snapshot store: id of a key"
_ID_WITH_DATA_KEYS: Final = "woodfrog.io 2026-11 snapshot store: id of a key that seals together with data keys"


class StoreKey:
    """One key, known by an id that tells nothing about it.

    ``with_data_keys``: objects are sealed by it together with a key of their snapshot's own. It has another id then, so that a
    worker that knows nothing of such keys says that it lacks this one.
    """

    def __init__(self, secret: bytes, *, with_data_keys: bool = False) -> None:
        assert len(secret) == KEY_BYTES
        self._secret = secret
        self.with_data_keys = with_data_keys
        self._names = blake3(secret, derive_key_context=_NAMES).digest()
        self.id = blake3(secret, derive_key_context=_ID_WITH_DATA_KEYS if with_data_keys else _ID).digest(ID_BYTES)

    def __repr__(self) -> str:
        return f"StoreKey({self.id.hex()})"

    def of_object(self, salt: bytes, data_key: bytes = b"") -> bytes:
        """Derive the key of the object that has this salt."""
        return blake3(self._secret + salt + data_key, derive_key_context=_OBJECT).digest()

    def together_with_data_keys(self) -> StoreKey:
        """Return the same key, for snapshots that have one of their own as well."""
        return StoreKey(self._secret, with_data_keys=True)

    def name(self, *parts: str) -> str:
        """Derive a name that only holders of the key can derive."""
        return blake3("\0".join(parts).encode(), key=self._names).hexdigest(length=20)


class KeyRing:
    """The keys of one store: the first seals, all open."""

    def __init__(self, keys: tuple[StoreKey, ...] = ()) -> None:
        self.keys = keys
        self.with_data_keys = tuple(key.together_with_data_keys() for key in keys)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read keys, one a line, each of 32 bytes in hex or base64; what follows a ``#`` is a comment.

        Raises:
            FailureError: ``store-key-unusable``; the message names the line and never what is in it.
        """
        advice = "Write one key a line, 32 random bytes in base64 or hex, such as `openssl rand -base64 32` prints."
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            said = problem.strerror if isinstance(problem, OSError) else "not a text"
            raise FailureError(
                Failure("store-key-unusable", f"the store's keys {path} cannot be read: {said}", advice)
            ) from problem
        keys = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            if text:
                secret = _decoded(text)
                if secret is None:
                    cause = f"line {number} of {path} is not a key of {KEY_BYTES} bytes"
                    raise FailureError(Failure("store-key-unusable", cause, advice))
                keys.append(StoreKey(secret))
        if not keys:
            raise FailureError(Failure("store-key-unusable", f"{path} holds no key", advice))
        return cls(tuple(keys))

    @property
    def first(self) -> StoreKey | None:
        """The one that seals; none if nothing is sealed."""
        return self.keys[0] if self.keys else None


def _decoded(text: str) -> bytes | None:
    for decode in (bytes.fromhex, lambda said: base64.b64decode(said, validate=True)):
        try:
            secret = decode(text)
        except (ValueError, binascii.Error):
            continue
        if len(secret) == KEY_BYTES:
            return secret
    return None
