"""A snapshot's files, put into a container that is being created, and taken out again if it cannot be restored.

The writable layer goes into the overlay, which is made pristine to undo it. ``/dev/shm`` and volumes belong to the pod:
init containers, earlier lives of this container and other containers have written there, so what was there is kept aside until
the container runs. What goes where is said by the live bundle alone; a tree for which it has no place is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import structlog

from nodeworker.bundle import Bundle
from nodeworker.capture import overlay
from nodeworker.capture import trees as file_trees
from nodeworker.domain.merge_rule import stays
from nodeworker.errors import refusal
from nodeworker.restore import pod_peers
from nodeworker.restore.pod_peers import Peer
from woodfrog.protocol import wire
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Entry, Root, Tree, TreeName

_log = structlog.get_logger(component="contents")
Reader = Callable[[Tree], AbstractContextManager[file_trees.ReadInto]]
"""Opens what the bytes of a tree are read from."""
_LAYER_NOTE: Final = "undo-layer.json"
_VOLUME_NOTES: Final = "undo-{:04}.jsonl"
_ALL_VOLUME_NOTES: Final = "undo-*.jsonl"


@dataclass(frozen=True)
class PodPeers:
    """The container's pod as it is now: who else runs there, and whether the container is back in it."""

    find: Callable[[], list[Peer]]
    returning: bool

    @cached_property
    def all(self) -> list[Peer]:
        """The running neighbours, looked for once and only if need be."""
        return self.find()

    def stays(self, volume: str | None) -> file_trees.Stays | None:
        """Make the rule for a volume, or for /dev/shm, which everybody in the pod may write to; None if nobody else does."""
        writers = [each for each in self.all if volume is None or volume in each.writable]
        if not writers:
            return None
        held = pod_peers.written_by(pid for each in writers for pid in each.pids)

        def decide(there: os.stat_result, entry: Entry) -> bool:
            return stays(
                entry,
                mode=there.st_mode,
                mtime_ns=there.st_mtime_ns,
                held=(there.st_dev, there.st_ino) in held,
                returning=self.returning,
            )

        return decide


def apply(trees: Sequence[Tree], live: Bundle, notes: Path, reader: Reader, peers: PodPeers) -> tuple[str, ...]:
    """Put all trees but the processes into the container's places; ``notes`` is a folder that remembers how to undo it.

    The answer says what of the snapshot has no place in the container, although its owner did not say that it may stay behind.

    Raises:
        FailureError: ``rootfs-not-overlay``, ``shm-missing``; what ``apply_tree`` raises.
        OSError: something cannot be made; then, too, it is to be undone.
    """
    for number, tree in enumerate(trees):
        if not tree.entries and not tree.root:
            continue
        if tree.name is TreeName.LAYER:
            _put_layer(tree, live, notes, reader)
        elif tree.name is TreeName.SHM:
            place = _shm_of(live)
            if place is not None:
                _put_shared(tree, place, notes / _VOLUME_NOTES.format(number), reader, peers.stays(None))
        elif tree.name is TreeName.VOLUME:
            place = live.travelling.get(tree.volume)
            if place is not None:
                name = next(volume.name for volume in live.volumes if volume.key == tree.volume)
                _put_shared(tree, place, notes / _VOLUME_NOTES.format(number), reader, peers.stays(name))
        elif tree.name is TreeName.CONFIG and tree.volume in live.configs:
            _put_shared(tree, live.configs[tree.volume], notes / _VOLUME_NOTES.format(number), reader, _all_stays)
    return tuple(_left_out(trees, live))


def _shm_of(live: Bundle) -> Path | None:
    """Say where a snapshot's /dev/shm goes; None if it may stay behind.

    Raises:
        FailureError: ``shm-missing``.
    """
    place = live.travelling_shm
    if place is None and live.options.shm and not live.shm_is_a_volume:
        cause = "the snapshot has the /dev/shm of its pod, and the new container has none, or something else there"
        raise refusal("shm-missing", cause, "Let the engine mount /dev/shm as before, or set woodfrog.io/shm to off.")
    return place


def _left_out(trees: Sequence[Tree], live: Bundle) -> Iterator[str]:
    for tree in trees:
        wanted = tree.name is TreeName.VOLUME and live.options.takes_volume(tree.volume)
        if wanted and tree.entries and tree.volume not in live.travelling:
            read_only = any(volume.key == tree.volume and volume.read_only for volume in live.volumes)
            lacks = "may only read its volume" if read_only else "has no emptyDir or anonymous volume"
            yield f"the new container {lacks} {tree.volume}, so what the snapshot holds of it was left out"


def _put_layer(tree: Tree, live: Bundle, notes: Path, reader: Reader) -> None:
    if overlay.find_overlay(live.rootfs) is None:
        cause = f"{live.rootfs} is not an overlay, so the snapshot's files cannot be put there and undone"
        raise refusal("rootfs-not-overlay", cause, "Use a container engine that mounts overlays.")
    (notes / _LAYER_NOTE).write_bytes(wire.encode(file_trees.root_of(live.rootfs)))
    with reader(tree) as read_into:
        file_trees.apply_tree(tree, live.rootfs, read_into)


def _put_shared(tree: Tree, place: Path, notes: Path, reader: Reader, stays_there: file_trees.Stays | None) -> None:
    with closing(file_trees.Aside(place, notes, stays_there)) as aside, reader(tree) as read_into:
        file_trees.apply_tree(tree, place, read_into, aside)


def rollback(live: Bundle, notes: Path) -> None:
    """Make the container's files what they were before anything was put there.

    Raises:
        FailureError: ``undo-failed``: they may hold files of the snapshot, and the container must not be started.
    """
    try:
        mounted = overlay.find_overlay(live.rootfs)
        if mounted is not None:
            overlay.undo(mounted)
        note = notes / _LAYER_NOTE
        if note.exists():
            file_trees.apply_tree(
                Tree(TreeName.LAYER, (), wire.decode(note.read_bytes(), Root)), live.rootfs, _nothing_to_read
            )
        for each in sorted(notes.glob(_ALL_VOLUME_NOTES), reverse=True):
            file_trees.rollback(each)
    except (OSError, FailureError, wire.MalformedMessageError) as problem:
        cause = f"what was put into the container could not be taken out again: {problem}"
        raise refusal("undo-failed", cause, "Let the container engine create a fresh container.") from problem


def commit(notes: Path) -> None:
    """Let go of what was in the pod's volumes before: the container runs with what was put there."""
    for each in notes.glob(_ALL_VOLUME_NOTES):
        with suppress(FileNotFoundError):
            try:
                file_trees.discard(each)
            except (OSError, wire.MalformedMessageError) as problem:
                _log.warning("what a volume had held before stays beside it", notes=str(each), error=str(problem))


def _all_stays(_there: os.stat_result, _entry: Entry) -> bool:
    """What the kubelet put into a volume stays; in a restart in place the old name is that of the very files."""
    return True


def _nothing_to_read(entry: Entry, _: int) -> None:
    raise AssertionError(f"{entry.path} has no content")
