"""Whether two manifests describe the same capture: what was read for the store, and what the worker vouched for before.

Where the bytes lie differs between the two, so chunks are compared by their digests. The node's facts are left out, because a worker
measures them each time that it starts; what comes from the journal is, too, for the journal is no part of the capture.
"""

from __future__ import annotations

from itertools import zip_longest

from msgspec.structs import replace

from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree


def difference(vouched: Manifest, found: Manifest) -> str | None:
    """Return what of a capture is not what was vouched for, as the subject of a sentence, or ``None``."""
    for before, now in zip_longest(vouched.trees, found.trees):
        if before is None or now is None or replace(before, entries=()) != replace(now, entries=()):
            return "the list of its trees"
        changed = _changed_file(vouched, before, found, now)
        if changed is not None:
            return changed
    beside = (vouched.held_files, vouched.threads, vouched.databases)
    if beside != (found.held_files, found.threads, found.databases):
        return "what was recorded beside its images"
    return None


def _changed_file(vouched: Manifest, before: Tree, found: Manifest, now: Tree) -> str | None:
    for one, other in zip_longest(before.entries, now.entries):
        if one is None or other is None:
            return f"the list of files of its tree {before.name}"
        if replace(one, chunks=()) != replace(other, chunks=()):
            return f"the entry of the file {one.path} in its tree {before.name}"
        if _digests(vouched, one) != _digests(found, other):
            return f"the file {one.path} of its tree {before.name}"
    return None


def _digests(manifest: Manifest, entry: Entry) -> list[str]:
    return ["" if index == HOLE else manifest.chunks[index].digest for index in entry.chunks]
