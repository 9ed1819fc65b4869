"""Viewers that a file names. One line each: a name, a token, the namespaces that they see, or ``*`` for everything, and a role.

    # who      token (32 characters or more)            namespaces             role
    oncall     5fd1b4f3c7e94c0d8f0a4a3ce1b8d9aa          *                      act
    team-a     b7c0e5b0f6b14b0c9f4c2f9d6a1e3d77          team-a,team-a-staging  view

The role ``act`` may change what it sees, where the API lets anybody change anything; ``view``, or none, may not.

The file is read again when it changes. One that cannot be read or understood admits no viewer.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

import msgspec
import structlog

from controlplane.http.api.viewers import Viewer

_log = structlog.get_logger(component="api")

SHORTEST_TOKEN: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
_ROLES: Final = ("view", "act")
_LARGEST_FILE_BYTES: Final = 1 << 20


class InvalidTokensError(ValueError):
    """The file cannot be used; the message names the line and quotes no token."""


class NamedViewer(msgspec.Struct, frozen=True):
    """A line of the file."""

    name: str
    namespaces: frozenset[str] | None
    """``None``: everything."""
    acts: bool = False

    async def sees(self, namespace: str | None) -> bool:
        """Whether the line names the namespace, or everything."""
        return self.namespaces is None or namespace in self.namespaces

    async def may(self, right: str, namespace: str) -> bool:
        """Whether the line has the role ``act``, for that namespace."""
        return self.acts and right in {"update", "delete"} and await self.sees(namespace)


def read_tokens(text: str) -> dict[bytes, NamedViewer]:
    """Read a file's lines; viewers by the SHA-256 of their tokens.

    Raises:
        InvalidTokensError: a line is not what it has to be.
    """
    found: dict[bytes, NamedViewer] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in {3, 4}:
            raise InvalidTokensError(
                f"line {number} has {len(words)} words; it must have a name, a token and namespaces, and may have a role"
            )
        name, token, namespaces, *roles = words
        if roles and roles[0] not in _ROLES:
            raise InvalidTokensError(f"line {number}: the role of {name!r} must be one of {', '.join(_ROLES)}")
        if len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
            raise InvalidTokensError(
                f"line {number}: the token of {name!r} must be {SHORTEST_TOKEN} or more letters, digits or . _ ~ + / = -"
            )
        digest = hashlib.sha256(token.encode()).digest()
        if digest in found:
            raise InvalidTokensError(f"line {number}: {name!r} has the token of {found[digest].name!r}")
        seen = None if namespaces == "*" else frozenset(filter(None, namespaces.split(",")))
        found[digest] = NamedViewer(name, seen, acts=roles == ["act"])
    return found


class TokenFile:
    """Recognizes the tokens of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._viewers: dict[bytes, NamedViewer] = {}
        self._problem = ""

    async def viewer(self, token: str) -> Viewer | None:
        """Find out whose a token is; ``None`` if it is nobody's."""
        self._refresh()
        # Found by its digest, so that the time that it takes tells nothing about a token.
        return self._viewers.get(hashlib.sha256(token.encode()).digest())

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            self._seen, self._viewers = seen, {}
            with self._path.open("rb") as file:
                data = file.read(_LARGEST_FILE_BYTES + 1)
            if len(data) > _LARGEST_FILE_BYTES:
                raise InvalidTokensError(f"it is larger than {_LARGEST_FILE_BYTES} bytes")
            self._viewers, self._problem = read_tokens(data.decode()), ""
        except (OSError, ValueError) as problem:
            self._viewers = {}
            if isinstance(problem, OSError):  # it may be readable the next time, without having changed
                self._seen = ()
            what = os.strerror(problem.errno) if isinstance(problem, OSError) and problem.errno else str(problem)
            if what != self._problem:
                self._problem = what
                _log.error("the file of tokens admits no viewer", file=str(self._path), problem=what)
