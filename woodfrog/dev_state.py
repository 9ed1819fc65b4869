"""The state directory of ``woodfrog dev``: what lies where, and the description by which the other verbs find it.

Everything that one machine's Woodfrog keeps is under this one directory: removing it forgets everything, copying it while
nothing runs takes everything along.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.natstls import Trust

VARIABLE = "WOODFROG_STATE_DIR"
_SOCKET_PATH_BYTES = 107
"""A unix socket's path must fit into sun_path with its final NUL (unix(7))."""


def default_state_dir() -> Path:
    """Say where the state lies if nobody says otherwise."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".local" / "state" / "woodfrog"


class Reach(msgspec.Struct, frozen=True):
    """Where the control plane is asked, and which cluster's ids are meant."""

    nats_url: str
    cluster: str
    seed_file: Path | None = None
    database: str | None = None
    """SQLAlchemy's URL of the log, where it can be opened from here."""
    trust: Trust = Trust()


class Description(msgspec.Struct, frozen=True):
    """``dev.json``: how to reach the stack. Holds the password of the broker, so it is root's alone."""

    state_dir: str
    nats_url: str
    socket: str
    """The node worker's."""
    runtime: str
    """The OCI runtime to give to an engine: ``ctr run --runc-binary``, containerd's ``BinaryName``."""
    runc_root: str
    """Where runc keeps its state of the containers of ``woodfrog run``."""
    containers: str
    """A directory for each container of ``woodfrog run``."""
    store: str
    spool: str
    database: str
    cluster: str
    namespace: str
    pids: dict[str, int] = {}
    """Of the parts: ``nats``, ``controlplane``, ``nodeworker``."""

    @property
    def reach(self) -> Reach:
        """How its control plane is asked."""
        return Reach(self.nats_url, self.cluster, database=f"sqlite+aiosqlite:///{self.database}")

    @property
    def secret_places(self) -> tuple[str, ...]:
        """Directories that no container may see through the host's root: passwords, and other containers' memory."""
        inside = Path(self.store).is_relative_to(self.state_dir)
        return (self.state_dir,) if inside else (self.state_dir, self.store)


_FIT: Final = re.compile(r"[\w./+@=~-]")
"""What CRIU's configuration takes in a path (``Env.path``), without what separates the directories of an overlay."""


class StateDirectory:
    """The paths below one state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.description = self.path / "dev.json"
        self.lock = self.path / "dev.lock"
        self.logs = self.path / "logs"
        self.nats = self.path / "nats"
        self.run = self.path / "run"
        self.worker = self.path / "worker"
        self.store = self.path / "store"
        self.database = self.path / "log.db"
        self.runtime = self.path / "bin" / "woodfrog-runtime"

    def make(self) -> None:
        """Make the directories, for root only.

        Raises:
            FailureError: ``state-dir-unfit`` when the path is too long for a socket or cannot be written.
        """
        socket = self.run / "worker.sock"
        if len(os.fsencode(socket)) > _SOCKET_PATH_BYTES:
            raise _unfit(f"{socket} is too long a path for a unix socket")
        found = next((each for each in str(self.path) if not _FIT.match(each)), None)
        if found is not None:
            raise _unfit(f"{self.path} holds {found!r}; it may hold letters, digits and . / _ + @ = ~ -")
        try:
            for directory in (self.path, self.logs, self.nats, self.run, self.worker, self.store):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise _unfit(f"{problem.filename} cannot be made: {problem.strerror}") from problem

    def describe(self, description: Description) -> None:
        """Write ``dev.json``, as a whole and readable for root only."""
        fresh = self.description.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(wire.encode(description))
        fresh.rename(self.description)

    def described(self) -> Description:
        """Read how to reach the stack.

        Raises:
            FailureError: ``not-started`` when ``woodfrog dev`` was never started here.
        """
        try:
            described: Description = wire.decode(self.description.read_bytes(), Description)
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise FailureError(
                Failure(
                    "not-started",
                    f"no Woodfrog was ever started with the state directory {self.path}",
                    "Start `woodfrog dev`, or name another directory with --state-dir.",
                )
            ) from problem
        return described


def _unfit(cause: str) -> FailureError:
    return FailureError(Failure("state-dir-unfit", cause, "Choose another directory with --state-dir."))
