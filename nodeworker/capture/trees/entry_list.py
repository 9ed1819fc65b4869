"""The list of what a tree holds, kept in a file: a container decides how long it is, and it is made while that one stands still.

A line for each entry, as JSON. The copies of files are named by the numbers of their entries, so where the bytes of a path lie
follows from the list and is looked up only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nodeworker.domain.common_failures import spool_corrupt
from woodfrog.protocol import wire
from woodfrog.protocol.manifest import Entry

_BUFFER_BYTES = 1 << 20


def beside(folder: Path) -> Path:
    """Say where the list of the tree is whose files are copied into ``folder``."""
    return folder.with_name(f"{folder.name}.entries")


class EntryFile(Collection[Entry]):
    """The entries of a list, read from its file each time: ``spool-corrupt`` if they are not what was written."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._count = count

    @classmethod
    def beside(cls, folder: Path, count: int) -> EntryFile:
        """Find the list of the tree whose files are copied into ``folder``.

        Raises:
            FileNotFoundError: there is none.
        """
        path = beside(folder)
        path.stat()
        return cls(path, count)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    yield wire.decode(line, Entry)
                except wire.MalformedMessageError as problem:
                    raise spool_corrupt(f"the list {self.path} of the capture is broken: {problem}") from problem

    def __contains__(self, entry: object) -> bool:
        return any(each == entry for each in self)


class EntryWriter:
    """Writes a list; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb", buffering=_BUFFER_BYTES)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def count(self) -> int:
        """How many entries there are."""
        return self._count

    def add(self, entry: Entry) -> int:
        """Append an entry; return how many bytes it takes."""
        self._count += 1
        return self._file.write(wire.encode(entry) + b"\n")

    def entries(self) -> EntryFile:
        """Return what was written; the writer must be closed."""
        return EntryFile(self._path, self._count)


class NumberedFiles(Mapping[str, Path]):
    """Where the bytes of each non-empty file of a list lie: in a folder, under the number of its entry."""

    def __init__(self, entries: Collection[Entry], folder: Path) -> None:
        self._entries = entries
        self.folder = folder
        self._numbers: dict[str, int] | None = None

    def _index(self) -> dict[str, int]:
        if self._numbers is None:
            self._numbers = {
                entry.path: number
                for number, entry in enumerate(self._entries)
                if entry.size_bytes and not entry.hardlink
            }
        return self._numbers

    def __getitem__(self, path: str) -> Path:
        return self.folder / str(self._index()[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())
