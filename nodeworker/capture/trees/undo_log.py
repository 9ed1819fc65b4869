"""What was in a directory before a snapshot's files came: kept beside them until the container has started.

A volume is not ours alone. Init containers have written there, and so has an earlier life of the container; other
containers of the pod may be running on it. So what a snapshot's file takes the place of is not deleted but moved, within
the volume and so at no cost, and every step is written down before it is taken: whatever dies when, the steps can be taken back.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from nodeworker.capture.trees.tree_reader import ASIDE, root_of
from nodeworker.capture.trees.tree_writer import Places, describe, remove
from woodfrog.protocol import wire
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Entry, Root

Stays = Callable[[os.stat_result, Entry], bool]
"""Whether what is there is left alone, and the snapshot's file not put there."""


class _Step(msgspec.Struct, frozen=True, omit_defaults=True):
    did: Literal["in", "made", "moved", "described"]
    path: str
    number: int = 0
    was: Root | None = None


class Aside:
    """Makes room for one tree in one directory. ``notes`` is a file of ours in which the steps are written down."""

    def __init__(self, place: Path, notes: Path, stays: Stays | None) -> None:
        """``stays`` is None where nobody else uses the directory: then the snapshot's files win, whatever is there."""
        self._stays = stays
        self._notes = notes.open("ab", buffering=0)
        self._folder: int | None = None
        self._count = 0
        self._note(_Step("in", str(place)))

    def close(self) -> None:
        """Close what is open; the steps can be taken back or settled from the notes."""
        self._notes.close()
        if self._folder is not None:
            os.close(self._folder)

    def stays(self, parent: int, name: bytes, entry: Entry) -> bool:
        """Say whether what is at a name is to be left alone."""
        if self._stays is None:
            return False
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._stays(there, entry)

    def clear(self, top: int, parent: int, name: bytes, path: str) -> None:
        """Free a name: what is there is moved aside."""
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            self._note(_Step("made", path))
            return
        if self._folder is None:
            self._folder = _fresh_folder(top)
        self._count += 1
        self._note(_Step("moved", path, self._count))
        os.rename(name, b"%d" % self._count, src_dir_fd=parent, dst_dir_fd=self._folder)

    def describes(self, parent: int, name: bytes, path: str) -> bool:
        """Note what a directory that is there is like before it is changed; say whether it may be changed."""
        if self._stays is not None:
            return False
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    self._note(_Step("described", path, was=root_of(descriptor)))
                finally:
                    os.close(descriptor)
        return True

    def _note(self, step: _Step) -> None:
        self._notes.write(wire.encode(step) + b"\n")


def rollback(notes: Path) -> None:
    """Take all steps back, the last one first. Steps that were noted and not taken are harmless; so is doing this twice.

    Raises:
        FailureError: ``snapshot-corrupt`` if a path does not lead through directories any more.
        OSError: something cannot be put back, or the notes cannot be read.
    """
    place, steps = _read(notes)
    if place is None or not place.is_dir():
        return
    with Places(place) as places:
        for step in reversed(steps):
            if step.path:
                with suppress(FileNotFoundError, NotADirectoryError, FailureError):  # a directory above is gone
                    _take_back(places, step)
            elif step.was is not None:
                places.leave(0)
                _discard(places.root)
                describe(places.root, step.was)
        places.leave(0)
        _discard(places.root, keep_time=True)
    notes.unlink()


def discard(notes: Path) -> None:
    """Let go of what was moved aside: the container runs.

    Raises:
        OSError: it cannot be removed, or the notes cannot be read.
    """
    place, _ = _read(notes)
    if place is not None and place.is_dir():
        with Places(place) as places:
            _discard(places.root, keep_time=True)
    notes.unlink()


def _take_back(places: Places, step: _Step) -> None:
    parent, name = places.parent_of(step.path)
    if step.did == "described" and step.was is not None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            describe(descriptor, step.was)
        finally:
            os.close(descriptor)
        return
    places.leave(step.path.count("/"))
    if step.did == "made":
        remove(parent, name)
    elif step.did == "moved":
        source = ASIDE + b"/%d" % step.number
        with suppress(FileNotFoundError):
            os.stat(source, dir_fd=places.root, follow_symlinks=False)
            remove(parent, name)
            os.rename(source, name, src_dir_fd=places.root, dst_dir_fd=parent)


def _read(notes: Path) -> tuple[Path | None, list[_Step]]:
    lines = notes.read_bytes().split(b"\n")
    steps = [wire.decode(line, _Step) for line in lines[:-1]]  # a last line without an end was never acted upon
    if not steps:
        return None, []
    return Path(steps[0].path), steps[1:]


def _fresh_folder(top: int) -> int:
    _discard(top)
    os.mkdir(ASIDE, 0o700, dir_fd=top)
    return os.open(ASIDE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)


def _discard(top: int, *, keep_time: bool = False) -> None:
    status = os.fstat(top)
    try:
        shutil.rmtree(ASIDE, dir_fd=top)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(ASIDE, dir_fd=top)
    if keep_time:
        os.utime(top, ns=(status.st_atime_ns, status.st_mtime_ns))
