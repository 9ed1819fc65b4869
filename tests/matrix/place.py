"""Where programs of the matrix run: two nodes, on each of which a container of an id can be started, asked and stopped.

``on_machine.py`` has two node workers on one machine, ``on_cluster.py`` has pods on two nodes of a cluster. How a program is started is the
same in both: what this module says.
"""

from __future__ import annotations

import subprocess
from typing import Any, Final, Protocol

from matrix.program import Npm, Pip, Program

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYS_RESOURCE: Final = 24
"""CAP_SYS_RESOURCE (capabilities(7))."""


class Live(Protocol):
    """One running container."""

    @property
    def container(self) -> str:
        """Its id for the engine."""

    @property
    def restored_from(self) -> str | None:
        """The snapshot that it continues from."""

    def runs(self) -> bool:
        """Whether its first process is still there."""

    def shell(self, snippet: str) -> subprocess.CompletedProcess[str]:
        """Run a snippet in the container."""

    def read(self, path: str) -> bytes | None:
        """Return a file of the container, if it is there."""

    def stop(self) -> None:
        """Stop it as its engine does, and return when it has stopped."""

    def said(self) -> str:
        """What it wrote, and what its engine says of it; a container that still runs may be killed for that."""

    def end(self) -> None:
        """Kill what still runs."""


class Place(Protocol):
    """Two nodes with Woodfrog."""

    @property
    def moves(self) -> tuple[int, ...]:
        """To which nodes a program is moved that was started on node 0."""

    def start(self, name: str, program: Program, node: int) -> Live:
        """Start the next container of an id, and return when it runs.

        Raises:
            AssertionError: it does not run.
        """

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return all events of an id."""


def words(program: Program) -> list[str]:
    """Return a program's command line."""
    return ["sh", "-c", snippet(program.command)]


def snippet(text: str) -> str:
    """Return a snippet with what all snippets share before it."""
    return f". /workloads/lib.sh; {text}"


def environment(program: Program, *, all_root: bool) -> dict[str, str]:
    """Return its variables: where its packages lie, and whether processes of other users cannot be dumped."""
    found = {"ALL_ROOT": "1"} if all_root else {}
    place = f"/opt/{program.packages.name}" if program.packages is not None else ""
    match program.packages:
        case Pip():
            return {**found, "PATH": f"{place}/bin:{_PATH}", "PYTHONPATH": place}
        case Npm():
            return {**found, "PATH": f"{place}/node_modules/.bin:{_PATH}"}
        case None:
            return {**found, "PATH": _PATH}


def dumps_other_users(status: str) -> bool:
    """Say by a process's ``/proc/PID/status`` whether it may dump processes of other users."""
    (line,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _SYS_RESOURCE & 1)
