"""The signed claims that a NATS server and its authorization service exchange, written and read.

The format is version 2 of nats-io/jwt: three parts in base64url without padding, signed with the nkey that the claim names
as its issuer. A server asks with an *authorization request* and gets an *authorization response*, which holds an error or
the JWT of a user (ADR-26 of nats-architecture-and-design; server/auth_callout.go). Only what Woodfrog uses is here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from woodfrog.protocol import wire
from woodfrog.service.nkeys import InvalidPublicKeyError, KeyPair, Owner, public_bytes, signed_by

REQUEST_AUDIENCE: Final = "nats-authorization-request"
_VERSION: Final = 2
_ALGORITHM: Final = "ed25519-nkey"
_NO_LIMIT: Final = -1


class InvalidClaimError(ValueError):
    """A token that is not what it is to be; the message holds nothing of its content."""


class _Header(msgspec.Struct, frozen=True):
    typ: str
    alg: str


class ServerIdentity(msgspec.Struct, frozen=True):
    """Which server asks."""

    id: str
    name: str = ""


class ClientInformation(msgspec.Struct, frozen=True):
    """From where a client connects."""

    host: str = ""
    name: str = ""


class ConnectOptions(msgspec.Struct, frozen=True):
    """What a client presents; more than the token is not of interest."""

    auth_token: str = ""


class Request(msgspec.Struct, frozen=True):
    """What a server asks about a client."""

    server_id: ServerIdentity
    user_nkey: str
    """The key that the server made up for this connection: the answer has to be about it, so none can be replayed."""
    type: str
    client_info: ClientInformation = ClientInformation()
    connect_opts: ConnectOptions = ConnectOptions()


class RequestClaims(msgspec.Struct, frozen=True):
    """A request as it is signed."""

    iss: str
    aud: str
    exp: int
    nats: Request


def read_request(token: bytes, *, now_seconds: float) -> RequestClaims:
    """Read an authorization request and check that the server that it names has signed it.

    Who may *send* requests is up to the broker: the subject lies in the authorization service's own account.

    Raises:
        InvalidClaimError: it is none, is signed by someone else, or has expired.
    """
    parts = token.split(b".")
    if len(parts) != 3:
        raise InvalidClaimError("not three parts")
    try:
        header: _Header = wire.decode(_decoded(parts[0]), _Header)
        claims: RequestClaims = wire.decode(_decoded(parts[1]), RequestClaims)
        signature = _decoded(parts[2])
        if header.typ.upper() != "JWT" or header.alg != _ALGORITHM:
            raise InvalidClaimError("not signed with an nkey")
        if not signed_by(claims.iss, Owner.SERVER, parts[0] + b"." + parts[1], signature):
            raise InvalidClaimError("the signature is wrong")
        public_bytes(claims.nats.user_nkey, Owner.USER)
    except (wire.MalformedMessageError, binascii.Error, InvalidPublicKeyError) as problem:
        raise InvalidClaimError(f"unreadable: {type(problem).__name__}") from problem
    if claims.iss != claims.nats.server_id.id:
        raise InvalidClaimError("not signed by the server that it names")
    if claims.aud != REQUEST_AUDIENCE or claims.nats.type != "authorization_request":
        raise InvalidClaimError("not an authorization request")
    if claims.exp < now_seconds:
        raise InvalidClaimError("the request has expired")
    return claims


def user(
    issuer: KeyPair,
    request: RequestClaims,
    *,
    name: str,
    account: str,
    publish: tuple[str, ...],
    subscribe: tuple[str, ...],
    now_seconds: int,
    expires_seconds: int,
) -> str:
    """Write the JWT of a user who may publish and subscribe what is listed, and connects as an ordinary client."""
    permissions = {
        "pub": {"allow": publish},
        "sub": {"allow": subscribe},
        "subs": _NO_LIMIT,
        "data": _NO_LIMIT,
        "payload": _NO_LIMIT,
        "allowed_connection_types": ["STANDARD"],
        "type": "user",
        "version": _VERSION,
    }
    claims = {"sub": request.nats.user_nkey, "aud": account, "name": name, "exp": expires_seconds, "nats": permissions}
    return _signed(issuer, claims, now_seconds)


def response(
    issuer: KeyPair, request: RequestClaims, *, user_jwt: str = "", error: str = "", now_seconds: int
) -> bytes:
    """Write the answer to a server: a user's JWT, or why there is none."""
    content = {"jwt": user_jwt} if user_jwt else {"error": error}
    claims = {
        "sub": request.nats.user_nkey,
        "aud": request.nats.server_id.id,
        "nats": {**content, "type": "authorization_response", "version": _VERSION},
    }
    return _signed(issuer, claims, now_seconds).encode()


def _signed(issuer: KeyPair, claims: Mapping[str, object], now_seconds: int) -> str:
    content = {**claims, "iss": issuer.public, "iat": now_seconds}
    digest = hashlib.sha256(msgspec.json.encode(content)).digest()
    payload = msgspec.json.encode({**content, "jti": base64.b32encode(digest).decode().rstrip("=")})
    signed = f"{_encoded(msgspec.json.encode(_Header('JWT', _ALGORITHM)))}.{_encoded(payload)}"
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
