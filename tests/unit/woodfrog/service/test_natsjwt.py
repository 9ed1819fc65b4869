"""Claims of NATS: read only if the server that they name has signed them, written as the server reads them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from woodfrog.service import natsjwt
from woodfrog.service.nkeys import InvalidPublicKeyError, KeyPair, Owner, public_bytes, signed_by

pytestmark = pytest.mark.timeout(10)

NOW = 1_800_000_000
SERVER, ISSUER, USER = KeyPair.new(Owner.SERVER), KeyPair.new(Owner.ACCOUNT), KeyPair.new()


def coded(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def plain(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def asked(
    *,
    signer: KeyPair = SERVER,
    header: dict[str, str] | None = None,
    nats: dict[str, Any] | None = None,
    **changed: Any,
) -> bytes:
    """A request as a server writes it, but for what is changed."""
    claims = {
        "iss": SERVER.public,
        "sub": ISSUER.public,
        "aud": natsjwt.REQUEST_AUDIENCE,
        "exp": NOW + 2,
        "iat": NOW,
        "jti": "x",
        "nats": {
            "server_id": {"name": "s", "host": "h", "id": SERVER.public, "version": "2.12.0"},
            "user_nkey": USER.public,
            "client_info": {"host": "10.0.0.1", "id": 5, "kind": "Client"},
            "connect_opts": {"auth_token": "the token", "lang": "python3", "protocol": 1},
            "type": "authorization_request",
            "version": 2,
            **(nats or {}),
        },
        **changed,
    }
    body = f"{coded(header or {'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{coded(claims)}"
    return f"{body}.{base64.urlsafe_b64encode(signer.sign(body.encode())).decode().rstrip('=')}".encode()


def test_a_request_tells_who_asks_about_whom() -> None:
    request = natsjwt.read_request(asked(), now_seconds=NOW).nats
    assert (request.user_nkey, request.server_id.id) == (USER.public, SERVER.public)
    assert (request.connect_opts.auth_token, request.client_info.host) == ("the token", "10.0.0.1")


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"a.b",
        b"a.b.c",
        asked() + b"A",
        asked(signer=KeyPair.new(Owner.SERVER)),
        asked(iss=KeyPair.new(Owner.SERVER).public),
        asked(iss=USER.public, signer=USER),
        asked(signer=USER, iss=USER.public, nats={"server_id": {"id": USER.public}}),
        asked(nats={"server_id": {"id": KeyPair.new(Owner.SERVER).public}}),
        asked(nats={"user_nkey": SERVER.public}),
        asked(nats={"user_nkey": "U"}),
        asked(nats={"type": "user"}),
        asked(aud="other"),
        asked(exp=NOW - 1),
        asked(header={"typ": "JWT", "alg": "none"}),
        asked(header={"typ": "JWT", "alg": "ed25519"}),
        asked(nats={"connect_opts": {"auth_token": 5}}),
    ],
)
def test_a_request_that_no_server_has_signed_so_is_not_read(token: bytes) -> None:
    with pytest.raises(natsjwt.InvalidClaimError) as refused:
        natsjwt.read_request(token, now_seconds=NOW)
    assert "the token" not in str(refused.value)


def test_a_changed_request_is_not_read() -> None:
    head, body, signature = asked().split(b".")
    other = coded({**plain(body.decode()), "exp": NOW + 99}).encode()
    with pytest.raises(natsjwt.InvalidClaimError, match="signature"):
        natsjwt.read_request(b".".join((head, other, signature)), now_seconds=NOW)


def test_a_user_is_signed_by_the_issuer_for_this_connection_only() -> None:
    request = natsjwt.read_request(asked(), now_seconds=NOW)
    token = natsjwt.user(
        ISSUER, request, name="n", account="NODES", publish=("a", "b"), subscribe=("c",),
        now_seconds=NOW, expires_seconds=NOW + 60,
    )  # fmt: skip
    answer = natsjwt.response(ISSUER, request, user_jwt=token, now_seconds=NOW).decode()
    for written in (token, answer):
        body, _, signature = written.rpartition(".")
        assert signed_by(ISSUER.public, Owner.ACCOUNT, body.encode(), base64.urlsafe_b64decode(signature + "=="))
        assert plain(written.split(".")[0]) == {"typ": "JWT", "alg": "ed25519-nkey"}
    claims = plain(token.split(".")[1])
    assert (claims["sub"], claims["aud"], claims["exp"]) == (USER.public, "NODES", NOW + 60)
    assert (claims["nats"]["pub"], claims["nats"]["sub"]) == ({"allow": ["a", "b"]}, {"allow": ["c"]})
    told = plain(answer.split(".")[1])
    assert (told["aud"], told["sub"], told["nats"]["jwt"]) == (SERVER.public, USER.public, token)
    assert "error" not in told["nats"]


def test_a_key_of_one_kind_is_no_key_of_another() -> None:
    for owner in Owner:
        pair = KeyPair.new(owner)
        assert pair.public[0] == owner.name[0] or (owner is Owner.SERVER and pair.public[0] == "N")
        assert KeyPair.from_seed(pair.seed, owner).public == pair.public
        for other in set(Owner) - {owner}:
            with pytest.raises(InvalidPublicKeyError):
                public_bytes(pair.public, other)
            with pytest.raises(ValueError, match="seed"):
                KeyPair.from_seed(pair.seed, other)


def _misspelt(key: str) -> str:
    return key[:-1] + ("B" if key[-1] == "A" else "A")


@pytest.mark.parametrize("text", ["", "U" * 56, "U" * 55, "Ü" * 56, "u" * 56, _misspelt(KeyPair.new().public)])
def test_a_text_that_is_no_key_is_told_so(text: str) -> None:
    with pytest.raises(InvalidPublicKeyError):
        public_bytes(text, Owner.USER)
