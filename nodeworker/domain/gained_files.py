"""Files by which a process gains privileges, which the new container's own processes could not have made.

A set-user-ID program, or one with file capabilities, gives whoever runs it what its owner has, up to the container's bounding set.
Those of the image are part of the new container's spec; those in a writable layer or a volume were made by the snapshot's
container, which may have been root where the new one is not. So they are put back without that, unless both are started alike.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from woodfrog.protocol.manifest import Entry, Manifest, Tree

_SET_USER_ID: Final = 0o4000
_SET_GROUP_ID: Final = 0o2000
_RUN_BY_GROUP: Final = 0o10
"""Without it the bit of a group means locking, and in a directory inheritance: neither gains anything."""
_SHOWN: Final = 8
_CAPABILITIES: Final = "security.capability"


def of_restore(manifest: Manifest, gains_for: tuple[int, tuple[int, ...]] | None) -> tuple[Manifest, tuple[str, ...]]:
    """Return the manifest as it may be put into a container, and warnings of its start.

    ``gains_for``: the user and groups that no file may give more to; None: nothing is taken.
    """
    if gains_for is None:
        return manifest, ()
    lost: list[str] = []
    trees = tuple(_tree(tree, *gains_for, lost) for tree in manifest.trees)
    if not lost:
        return manifest, ()
    shown = ", ".join(lost[:_SHOWN]) + (" …" if len(lost) > _SHOWN else "")
    said = f"lowered to what the new container allows: its files {shown} gave more than the new container's user has"
    return msgspec.structs.replace(manifest, trees=trees), (said,)


def _tree(tree: Tree, user: int, groups: Collection[int], lost: list[str]) -> Tree:
    before = len(lost)
    entries = tuple(_entry(entry, user, groups, lost) for entry in tree.entries)
    return msgspec.structs.replace(tree, entries=entries) if len(lost) > before else tree


def _entry(entry: Entry, user: int, groups: Collection[int], lost: list[str]) -> Entry:
    if entry.kind != "file" or not (entry.mode & (_SET_USER_ID | _SET_GROUP_ID) or entry.xattrs):
        return entry
    mode = entry.mode
    if entry.uid != user:
        mode &= ~_SET_USER_ID
    if entry.gid not in groups and mode & _RUN_BY_GROUP:
        mode &= ~_SET_GROUP_ID
    xattrs = {name: value for name, value in entry.xattrs.items() if name != _CAPABILITIES}
    if mode == entry.mode and len(xattrs) == len(entry.xattrs):
        return entry
    lost.append(entry.path)
    return msgspec.structs.replace(entry, mode=mode, xattrs=xattrs)
