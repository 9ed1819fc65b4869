"""What is different between two snapshots, from their manifests; of what is in them only CRIU's small images are read.

A chunk is known by the digest of its bytes, so content is compared without reading it. CRIU's images differ in every dump: of them is shown
what they mean, processes and memory, and not the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from nodeworker.domain.criu_images import MalformedImageError
from nodeworker.domain.criu_images.memory import Process, read_pages, read_processes
from nodeworker.store import Unpacker, tree_of
from woodfrog.cli.snapshot_contents import shown_tree
from woodfrog.protocol.amounts import size
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree, TreeName

_LARGEST_IMAGE_BYTES: Final = 64 << 20
_PAGE_BYTES: Final = 4096
_MOST_NAMED: Final = 10

Row = dict[str, Any]


class _Images(Mapping[str, bytes]):
    """CRIU's images of one snapshot, read from the store as they are asked for."""

    def __init__(self, manifest: Manifest, reader: Unpacker) -> None:
        self._manifest = manifest
        self._reader = reader
        self._entries = {entry.path: entry for entry in tree_of(manifest, TreeName.PROCESSES).entries}

    def __getitem__(self, name: str) -> bytes:
        entry = self._entries[name]
        if entry.size_bytes > _LARGEST_IMAGE_BYTES:
            raise MalformedImageError(f"{name} has {entry.size_bytes} bytes")
        data = b"".join(
            bytes(self._manifest.chunk_bytes) if index == HOLE else self._reader.chunk(index) for index in entry.chunks
        )
        return data[: entry.size_bytes]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def images_of(manifest: Manifest, reader: Unpacker) -> Mapping[str, bytes]:
    """Return CRIU's images by their names; reading one raises what the store refuses, or MalformedImageError."""
    return _Images(manifest, reader)


def processes(was: Mapping[str, bytes], now: Mapping[str, bytes], old: Manifest, new: Manifest) -> Row | None:
    """Compare the processes by pid and name; ``None`` if CRIU's images cannot be read that far."""
    try:
        before = read_processes(was, old.node_facts.page_size_bytes or _PAGE_BYTES)
        after = read_processes(now, new.node_facts.page_size_bytes or _PAGE_BYTES)
    except MalformedImageError:
        return None
    then = {(each.pid, each.name): each for each in before}
    today = {(each.pid, each.name): each for each in after}
    return {
        "before": len(before),
        "after": len(after),
        "added": [each for name, each in today.items() if name not in then],
        "removed": [each for name, each in then.items() if name not in today],
        "changed": [
            {
                "pid": each.pid,
                "name": each.name,
                "memory_bytes_before": then[name].memory_bytes,
                "memory_bytes_after": each.memory_bytes,
            }
            for name, each in today.items()
            if name in then and then[name].memory_bytes != each.memory_bytes
        ],
    }


def memory(old: Manifest, new: Manifest) -> Row:
    """Compare what the snapshots hold of memory, in chunks: what is all zeros counts in neither."""
    before, after = _pages_of(old), _pages_of(new)
    return {
        "bytes_before": sum(before.values()),
        "bytes_after": sum(after.values()),
        "bytes_not_in_before": sum(raw for digest, raw in after.items() if digest not in before),
    }


def changed_bytes(was: Mapping[str, bytes], now: Mapping[str, bytes], old: Manifest, new: Manifest) -> int | None:
    """Count what is in the memory of the later processes and was not at that address before, page by page.

    ``None`` where there is too much memory to read all of it, or CRIU's images cannot be read that far.
    """
    page = new.node_facts.page_size_bytes or _PAGE_BYTES
    if (
        page != (old.node_facts.page_size_bytes or _PAGE_BYTES)
        or max(_memory_bytes(old), _memory_bytes(new)) > _LARGEST_IMAGE_BYTES
    ):
        return None
    try:
        before = {(pid, address): hash(held) for pid, address, held in _read_pages(was, page)}
        return sum(page for pid, address, held in _read_pages(now, page) if before.get((pid, address)) != hash(held))
    except MalformedImageError:
        return None


def _read_pages(images: Mapping[str, bytes], page_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    return read_pages(images, [each.pid for each in read_processes(images, page_bytes)], page_bytes)


def _memory_bytes(manifest: Manifest) -> int:
    return sum(
        entry.size_bytes for entry in tree_of(manifest, TreeName.PROCESSES).entries if entry.path.startswith("pages-")
    )


def _pages_of(manifest: Manifest) -> dict[str, int]:
    """Return the raw size of every chunk of memory, by its digest; equal chunks count once."""
    return {
        manifest.chunks[index].digest: manifest.chunks[index].raw_bytes
        for entry in tree_of(manifest, TreeName.PROCESSES).entries
        if entry.path.startswith("pages-")
        for index in entry.chunks
        if index != HOLE
    }


def files(old: Manifest, new: Manifest) -> Iterator[Row]:
    """Compare the files of all trees but CRIU's images, in the order of the trees and of their paths."""
    nothing = Tree(TreeName.LAYER, ())
    was = {shown_tree(tree): tree for tree in old.trees if tree.name is not TreeName.PROCESSES}
    now = {shown_tree(tree): tree for tree in new.trees if tree.name is not TreeName.PROCESSES}
    for name in dict.fromkeys((*was, *now)):
        before = {entry.path: entry for entry in was.get(name, nothing).entries}
        after = {entry.path: entry for entry in now.get(name, nothing).entries}
        for path in sorted({*before, *after}):
            one, other = before.get(path), after.get(path)
            what = _differences(old, before, one, new, after, other)
            if what:
                yield {
                    "change": "added" if one is None else "removed" if other is None else "changed",
                    "tree": name,
                    "path": path,
                    "size_bytes_before": _size(before, one),
                    "size_bytes_after": _size(after, other),
                    "what": what,
                }


def _differences(
    old: Manifest,
    before: Mapping[str, Entry],
    one: Entry | None,
    new: Manifest,
    after: Mapping[str, Entry],
    other: Entry | None,
) -> list[str]:
    """Name what is different about one path; when a file was last modified is not, if nothing else is."""
    if one is None or other is None:
        there = one or other
        assert there is not None
        return ["deleted from the image" if there.kind == "whiteout" else there.kind]
    if one.kind != other.kind:
        return [f"{one.kind} became {other.kind}"]
    compared = (
        ("content", _content(old, before, one), _content(new, after, other)),
        ("mode", one.mode, other.mode),
        ("owner", (one.uid, one.gid), (other.uid, other.gid)),
        ("target", one.target, other.target),
        ("xattrs", one.xattrs, other.xattrs),
        ("opaque", one.opaque, other.opaque),
    )
    return [name for name, was, now in compared if was != now]


def _content(manifest: Manifest, entries: Mapping[str, Entry], entry: Entry) -> tuple[object, ...]:
    file = entries[entry.hardlink] if entry.hardlink is not None else entry
    return (file.size_bytes, *(HOLE if index == HOLE else manifest.chunks[index].digest for index in file.chunks))


def _size(entries: Mapping[str, Entry], entry: Entry | None) -> int | None:
    if entry is None or entry.kind != "file":
        return None
    return entries[entry.hardlink].size_bytes if entry.hardlink is not None else entry.size_bytes


def sentences(compared: Mapping[str, Any]) -> Iterator[str]:
    """Say what became of processes and memory."""
    found, held = compared["processes"], compared["memory"]
    if found is None:
        yield "processes: CRIU's images cannot be read here"
    else:
        yield f"processes: {found['before']} before, {found['after']} after"
        for change in ("added", "removed"):
            for each in found[change][:_MOST_NAMED]:
                yield f"  {change}: {_named(each)}"
            if len(found[change]) > _MOST_NAMED:
                yield f"  {change}: {len(found[change]) - _MOST_NAMED} more"
        for each in found["changed"][:_MOST_NAMED]:
            sizes = f"{size(each['memory_bytes_before'])} before, {size(each['memory_bytes_after'])} after"
            yield f"  {each['pid']} {each['name']}: {sizes}"
    changed = held["bytes_changed"]
    what = f"{size(held['bytes_not_in_before'])} of it not in the one before"
    if changed is not None:
        what = f"{size(changed)} of it changed"
    yield f"memory: {size(held['bytes_before'])} before, {size(held['bytes_after'])} after, {what}"


def _named(process: Process) -> str:
    return f"{process.pid} {process.name}, {process.threads} thread{'s' * (process.threads != 1)}, {size(process.memory_bytes)}"
