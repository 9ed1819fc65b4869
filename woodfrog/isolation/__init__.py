"""A NATS configuration in which a node can speak for itself and for nobody else, and the keys that go with it.

A node runs other people's containers, so one day one is broken into. What its key lets it do is then all that is lost: its
own reports, signs of life and questions, and its own commands. ``nats.conf`` and ``accounts.conf`` are shipped as they are
read here; what differs from one installation to the next is who has which key, and that is generated.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from woodfrog.protocol import permissions, subjects, wire
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import InvalidIdError, NodeName, check_id
from woodfrog.service.nkeys import InvalidPublicKeyError, KeyPair, Owner, public_bytes

CONTROL: Final = "control"
OPERATOR: Final = "operator"
CALLOUT: Final = "callout"
"""As who the control plane hears which connections the server asks about."""
ISSUER: Final = "issuer"
"""With whose key the control plane signs its answers; no user, but the key of an account."""
_SERVER: Final = "nats.conf"
_ACCOUNTS: Final = "accounts.conf"
_WRITTEN: Final = "# Written by `python -m woodfrog.isolation`.\n"
_ASKED_SECONDS: Final = 10
"""How long a server waits for the control plane, which asks Kubernetes twice."""


class _Users(msgspec.Struct):
    """``users.json``: public keys only."""

    control: str
    operator: str
    nodes: dict[NodeName, str] = {}
    callout: str = ""
    """Empty if nodes have keys, and no tokens that the control plane is asked about."""
    issuer: str = ""


class Password(msgspec.Struct, frozen=True):
    """A user of the control plane's account without a key, for a server that only one machine can reach."""

    user: str
    password: str


class Isolation:
    """A directory with a server's configuration, and the seeds that have not been taken to their owners yet."""

    def __init__(self, directory: Path, *, password: Password | None = None) -> None:
        self.directory = directory
        self._password = password
        self._users_file = directory / "users.json"

    @property
    def server_configuration(self) -> Path:
        """What ``nats-server --config`` is given."""
        return self.directory / _SERVER

    def seed_file(self, user: str) -> Path:
        """Where the seed of ``control``, ``operator`` or a node was written; it is its owner's alone."""
        return self.directory / "seeds" / f"{user}.seed"

    def make(self, *, callout: bool = False) -> None:
        """Write everything that is not there yet, and anew what is generated. Keys that exist stay.

        With ``callout``, from now on the server asks the control plane about whoever is not listed, so that a node worker may
        come with its pod's token; nodes that are listed with their keys stay so. The server must be started anew for that, it
        cannot be reloaded. Its own file is left as its operator wants it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        users = self._users()
        if callout and not users.callout:
            users.callout, users.issuer = self._new_pair(CALLOUT), self._new_pair(ISSUER, Owner.ACCOUNT)
        self._render(users)
        if not self.server_configuration.exists():
            self.server_configuration.write_text(_shipped(_SERVER))

    def add_node(self, node: NodeName, public_key: str | None = None) -> None:
        """Let a node in, or give it another key; the server has to be told to reload (``nats-server --signal reload``).

        Without a public key, a pair is made and its seed written to :meth:`seed_file`, to be taken to the node.

        Raises:
            FailureError: ``bad-node-name``, ``bad-public-key``.
        """
        try:
            check_id(node, "node")
        except InvalidIdError as problem:
            raise FailureError(
                Failure("bad-node-name", str(problem), "Use the name that the worker uses.")
            ) from problem
        if public_key is not None:
            try:
                public_bytes(public_key, Owner.USER)
            except InvalidPublicKeyError as problem:
                raise FailureError(
                    Failure(
                        "bad-public-key",
                        f"{public_key!r} is not a public nkey of a user: {problem}",
                        "Take the key that was printed where the seed was made; it has 56 characters and begins with U.",
                    )
                ) from problem
        users = self._users()
        users.nodes[node] = public_key or self._new_pair(subjects.token(node))
        self._render(users)

    def remove_node(self, node: NodeName) -> None:
        """Shut a node out, once the server was told to reload; nothing if it is not known."""
        users = self._users()
        users.nodes.pop(node, None)
        self.seed_file(subjects.token(node)).unlink(missing_ok=True)
        self._render(users)

    def nodes(self) -> dict[NodeName, str]:
        """Tell which node has which public key."""
        return dict(self._users().nodes)

    def _users(self) -> _Users:
        try:
            users: _Users = wire.decode(self._users_file.read_bytes(), _Users)
        except FileNotFoundError:
            return _Users(control=self._new_pair(CONTROL), operator=self._new_pair(OPERATOR))
        except wire.MalformedMessageError as problem:
            raise FailureError(
                Failure(
                    "users-damaged",
                    f"{self._users_file}: {problem}",
                    "Restore the file, or begin in an empty directory.",
                )
            ) from problem
        return users

    def _new_pair(self, user: str, owner: Owner = Owner.USER) -> str:
        pair = KeyPair.new(owner)
        file = self.seed_file(user)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(file, f"{pair.seed}\n")
        return pair.public

    def _render(self, users: _Users) -> None:
        write_secret(self._users_file, wire.encode(users).decode())
        (self.directory / _ACCOUNTS).write_text(_shipped(_ACCOUNTS))
        control = [f'{{ nkey: "{users.control}" }}']
        if self._password is not None:
            control.append(f'{{ user: "{self._password.user}", password: "{self._password.password}" }}')
        write_secret(self.directory / "control.conf", _listed(control))
        write_secret(self.directory / "people.conf", _listed([f'{{ nkey: "{users.operator}" }}']))
        write_secret(self.directory / "nodes.conf", _listed([node_user(*one) for one in sorted(users.nodes.items())]))
        write_secret(self.directory / "callout.conf", callout_users(users.callout))
        write_secret(self.directory / "authorization.conf", self._authorization(users))

    def _authorization(self, users: _Users) -> str:
        if not users.callout:
            return f"{_WRITTEN}# Only who is listed is let in.\n"
        listed = [users.control, users.operator, users.callout, *(key for _, key in sorted(users.nodes.items()))]
        if self._password is not None:
            listed.append(self._password.user)
        return authorization(users.issuer, listed)


def authorization(issuer: str, listed: list[str]) -> str:
    """Write that the server asks about whoever is not ``listed``, and believes what ``issuer`` signs."""
    names = "".join(f'      "{name}"\n' for name in listed)
    return (
        f"{_WRITTEN}# The control plane is asked about clients that are not listed.\n"
        f"authorization {{\n  timeout: {_ASKED_SECONDS}\n  auth_callout {{\n"
        f'    issuer: "{issuer}"\n    account: AUTH\n    auth_users: [\n{names}    ]\n  }}\n}}\n'
    )


def node_user(node: NodeName, public_key: str) -> str:
    """Write a node as a user of the account NODES: everything that it may do."""
    may = permissions.of_node(node)
    publish, subscribe = (", ".join(f'"{subject}"' for subject in each) for each in (may.publish, may.subscribe))
    return f'{{ nkey: "{public_key}", permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}'


def callout_users(public_key: str) -> str:
    """Write the one user of the account AUTH, who hears the server's questions and answers them; none without a key."""
    if not public_key:
        return _listed([])
    may = 'subscribe: ["$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.AUTH *"], publish: { deny: [">"] }, allow_responses: true'
    return _listed([f'{{ nkey: "{public_key}", permissions: {{ {may} }} }}'])


def key_user(public_key: str) -> str:
    """Write a user who may do all that its account may."""
    return _listed([f'{{ nkey: "{public_key}" }}'])


def _listed(users: list[str]) -> str:
    lines = "".join(f"  {user}\n" for user in users)
    return f"{_WRITTEN}users = [\n{lines}]\n"


def _shipped(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(path)
