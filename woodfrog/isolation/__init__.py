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

from process.nkeys import KeyPair
from protocol import subjects, wire
from protocol.failures import Failure, FailureError
from protocol.ids import InvalidIdError, NodeName, check_id

CONTROL: Final = "control"
OPERATOR: Final = "operator"
_SERVER: Final = "nats.conf"
_ACCOUNTS: Final = "accounts.conf"
_PUBLIC_LENGTH: Final = 56


class _Users(msgspec.Struct):
    """``users.json``: public keys only."""

    control: str
    operator: str
    nodes: dict[NodeName, str] = {}


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

    def make(self) -> None:
        """Write everything that is not there yet, and anew what is generated. Keys that exist stay.

        The server's own file is left as its operator wants it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._render(self._users())
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
        if public_key is not None and not (
            len(public_key) == _PUBLIC_LENGTH and public_key.isalnum() and public_key.startswith("U")
        ):
            cause = (
                f"{public_key!r} is no public nkey of a user, which has {_PUBLIC_LENGTH} characters and begins with U"
            )
            raise FailureError(
                Failure("bad-public-key", cause, "Take the key that was printed where the seed was made.")
            )
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

    def _new_pair(self, user: str) -> str:
        pair = KeyPair.new()
        file = self.seed_file(user)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_secret(file, f"{pair.seed}\n")
        return pair.public

    def _render(self, users: _Users) -> None:
        _write_secret(self._users_file, wire.encode(users).decode())
        (self.directory / _ACCOUNTS).write_text(_shipped(_ACCOUNTS))
        control = [f'{{ nkey: "{users.control}" }}']
        if self._password is not None:
            control.append(f'{{ user: "{self._password.user}", password: "{self._password.password}" }}')
        _write_secret(self.directory / "control.conf", _listed(control))
        _write_secret(self.directory / "people.conf", _listed([f'{{ nkey: "{users.operator}" }}']))
        _write_secret(self.directory / "nodes.conf", _listed([node_user(*one) for one in sorted(users.nodes.items())]))


def node_user(node: NodeName, public_key: str) -> str:
    """Write a node as a user of the account NODES: everything that it may do."""
    queue = subjects.commands_consumer(node)
    publish = (
        subjects.reports(node),
        subjects.heartbeats(node),
        subjects.resolve(node),
        # Answered by the server with "not enabled", since NODES has no JetStream: so the worker knows that it may not look.
        f"$JS.API.CONSUMER.INFO.{subjects.COMMANDS_STREAM}.{queue}",
        f"$JS.API.CONSUMER.MSG.NEXT.{subjects.COMMANDS_STREAM}.{queue}",
        f"$JS.ACK.{subjects.COMMANDS_STREAM}.{queue}.>",
    )
    allowed = ", ".join(f'"{subject}"' for subject in publish)
    return (
        f'{{ nkey: "{public_key}", permissions: {{ publish: [{allowed}], subscribe: ["{subjects.inbox(node)}.>"] }} }}'
    )


def _listed(users: list[str]) -> str:
    lines = "".join(f"  {user}\n" for user in users)
    return f"# Written by `python -m woodfrog.isolation`.\nusers = [\n{lines}]\n"


def _shipped(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(path)
