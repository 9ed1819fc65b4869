"""The log of a detached container: bounded, by id, so that a restored container writes on where the one before it ended.

A line is ``TIME CONTAINER STREAM F|P TEXT``, like those of the CRI: ``P`` is a part that no line end followed yet, so a prompt is seen at once and every byte
comes back. ``STREAM`` is ``stdout``, ``stderr``, or ``woodfrog`` for what ``woodfrog run`` itself says. Two files of at most :data:`MOST_BYTES`
are kept for each id, the older one as ``log.1``; several containers of an id may write at once while one takes over from another.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

from woodfrog.protocol.ids import ContainerId

FOLDER: Final = "output"
"""Of the logs, below the state directory."""
MOST_BYTES: Final = 10 << 20
LONGEST: Final = timedelta(days=14)
"""How long the log of an id is kept that nothing is written to."""
_NAME: Final = "log"
_WRITERS: Final = "writers"
_OLDER: Final = "log.1"

Stream = Literal["stdout", "stderr", "woodfrog"]


class Entry(NamedTuple):
    """One line of a log, or a part of one."""

    at: str
    container_id: str
    stream: str
    text: bytes
    """With its line end, if it has one."""


class ContainerLog:
    """The log of one id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, state_dir: Path, namespace: str, checkpoint_id: str) -> ContainerLog:
        """Name the log of an id."""
        return cls(state_dir / FOLDER / namespace / checkpoint_id)

    @property
    def exists(self) -> bool:
        """Whether a container of the id was ever detached, and not too long ago."""
        return (self._folder / _NAME).exists()

    def written(self) -> bool:
        """Whether somebody may write to it still."""
        try:
            descriptor = os.open(self._folder / _WRITERS, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def writer(self, container_id: ContainerId) -> Iterator[Writer]:
        """Write to it as this container.

        Raises:
            OSError: the log cannot be opened.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(self._folder / _WRITERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            writer = Writer(self._folder, container_id)
            try:
                yield writer
            finally:
                writer.close()
        finally:
            os.close(held)

    def read(self, tail: int | None = None, container_id: str = "", *, follow: bool = False) -> Iterator[Entry]:
        """Read what is there, or its last ``tail`` lines, of one container or all; then what is added until nobody writes any more."""
        *older, newer = self._files()
        with ExitStack() as opened:
            for file in (*older, *(() if follow else (newer,))):
                opened.enter_context(file)
            past = [entry for file in (*older, newer) for entry in _parsed(file)]
        past = [entry for entry in past if container_id in {"", entry.container_id}]
        yield from past if tail is None else _last(past, tail)
        if follow:
            yield from (entry for entry in self._added(newer) if container_id in {"", entry.container_id})

    def _added(self, file: BinaryIO, seconds: float = 0.2) -> Iterator[Entry]:
        """Read on from where ``file`` stands, through the files that come after it."""
        while True:
            with file:
                turned = False
                while not turned:
                    over = not self.written()
                    turned = os.fstat(file.fileno()).st_ino != _inode(self._folder / _NAME)
                    yield from _parsed(file)
                    if over and not turned:
                        return
                    time.sleep(0.0 if turned else seconds)
            file = (self._folder / _NAME).open("rb")

    def _files(self) -> list[BinaryIO]:
        """Open the older file, if there is one, and the newer."""
        with _alone(self._folder):
            paths = [path for name in (_OLDER, _NAME) if (path := self._folder / name).exists()]
            return [path.open("rb") for path in paths]


class Writer:
    """Writes as one container. Never raises: a full disk loses lines of the log, not work of the container."""

    def __init__(self, folder: Path, container_id: ContainerId) -> None:
        self._folder, self._container_id = folder, container_id
        self._one_at_a_time = threading.Lock()
        self._file = self._opened()

    def write(self, stream: Stream, data: bytes) -> None:
        """Add what was written to a stream."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        head = f"{now} {self._container_id} {stream}".encode()
        parts = (head + (b" F " + each if each.endswith(b"\n") else b" P " + each + b"\n") for each in _lines(data))
        text = b"".join(parts)
        with self._one_at_a_time, suppress(OSError):
            self._add(text)

    def close(self) -> None:
        """Write no more."""
        with self._one_at_a_time, suppress(OSError):
            os.close(self._file)

    def _add(self, text: bytes) -> None:
        path = self._folder / _NAME
        with _alone(self._folder):
            status = os.fstat(self._file)
            if status.st_ino == _inode(path) and status.st_size and status.st_size + len(text) > MOST_BYTES:
                path.rename(self._folder / _OLDER)
            if status.st_ino != _inode(path):
                os.close(self._file)
                self._file = self._opened()
            view = memoryview(text)
            while view:
                view = view[os.write(self._file, view) :]

    def _opened(self) -> int:
        return os.open(self._folder / _NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def id_of(state_dir: Path, container_id: str) -> tuple[str, str] | None:
    """Find the namespace and the id whose log has output of this container."""
    for path in sorted((state_dir / FOLDER).glob(f"*/*/{_NAME}")):
        if any(entry.container_id == container_id for entry in ContainerLog(path.parent).read()):
            return path.parent.parent.name, path.parent.name
    return None


def prune(state_dir: Path, now: datetime) -> None:
    """Delete the logs that nothing was written to for :data:`LONGEST`."""
    for path in (state_dir / FOLDER).glob(f"*/*/{_NAME}"):
        with suppress(OSError):
            age = now - datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if age > LONGEST and not ContainerLog(path.parent).written():
                shutil.rmtree(path.parent)


def _last(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return the entries of the last so many lines."""
    kept: list[Entry] = []
    ends = 0
    for entry in reversed(entries):
        ends += entry.text.endswith(b"\n") or not kept
        if ends > count:
            break
        kept.append(entry)
    return kept[::-1]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else add to a log, or read it, while the newer file becomes the older."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lines(data: bytes) -> list[bytes]:
    """Split at line feeds alone: ``bytes.splitlines`` splits at carriage returns, too."""
    *whole, rest = data.split(b"\n")
    return [part + b"\n" for part in whole] + ([rest] if rest else [])


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _parsed(file: BinaryIO) -> Iterator[Entry]:
    """Read up to the end; a line that is just being written is left for the next time."""
    while line := file.readline():
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        at, container_id, stream, whole, text = line.split(b" ", 4)
        yield Entry(at.decode(), container_id.decode(), stream.decode(), text if whole == b"F" else text[:-1])
