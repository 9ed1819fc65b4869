"""Checkpoint archives: what is in a snapshot is in them, under the names that checkpointctl knows."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support.data_keys import write_pair
from support.snapshots import HEADER, KEY, MIB, SNAPSHOT, Place, contents, mixed, noise, refusal

from nodeworker.capture.trees import CapturedTree
from nodeworker.domain.filename_codec import text_of
from nodeworker.store import KeyRing, SnapshotStore
from nodeworker.store.archive import ArchiveWriter
from nodeworker.store.archive_reader import ArchiveReader
from nodeworker.store.encryption_keys import StoreKey
from woodfrog.cli.snapshot_contents import described
from woodfrog.cli.snapshot_import import header_of
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, TreeName
from woodfrog.service.data_keys import Recipient

pytestmark = pytest.mark.timeout(60)

ODD = text_of(b"odd-\xff-name")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def layer(place: Place, name: TreeName, volume: str = "") -> CapturedTree:
    body = place.images.parent / "body"
    body.write_bytes(noise(MIB + 3) + bytes(2 * MIB))
    in_layer = name is TreeName.LAYER
    entries = (
        Entry("etc", "directory", 0o755, mtime_ns=1_700_000_000_000_000_000, opaque=in_layer),
        Entry(
            "etc/file", "file", 0o4640, 7, 8, 1_700_000_000_500_000_000, 3 * MIB + 3, xattrs={"user.a": b"\xfe\x00b"}
        ),
        *((Entry("etc/gone", "whiteout"),) if in_layer else ()),
        Entry("etc/same", "file", 0o4640, 7, 8, hardlink="etc/file"),
        Entry("etc/to", "symlink", 0o777, target="/some/where"),
        Entry(ODD, "fifo", 0o600),
        Entry("run.sock", "socket", 0o600),
    )
    tree = CapturedTree(name, entries, {"etc/file": body})
    return replace(tree, volume=volume) if volume else tree


def exported(place: Place) -> tuple[Path, Manifest]:
    mixed(place)
    trees = [
        place.listed(),
        layer(place, TreeName.LAYER),
        layer(place, TreeName.SHM),
        layer(place, TreeName.VOLUME, "/cache/a"),
    ]
    header = replace(
        HEADER,
        node_facts=NodeFacts("x86_64", "6.1.0", cgroup_version=2, criu_version="4.1", runc_version="1.3.0"),
        container_facts=ContainerFacts(image="docker.io/library/redis:8", mounts=("/data", "/proc"), pod="redis-0"),
    )
    stored = place.store.put(header, trees)
    manifest = place.open(stored)
    archive = place.into.with_suffix(".tar")
    archive.write_bytes(b"an older one")
    with place.store.reader(manifest) as reader:
        ArchiveWriter(manifest, reader).write(archive)
    return archive, manifest


def test_an_archive_has_the_layout_that_checkpointctl_reads(place: Place) -> None:
    archive, _ = exported(place)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in archive.parent.iterdir() if path.name.startswith(".")] == []
    with tarfile.open(archive) as tar:
        top = {name.partition("/")[0] for name in tar.getnames()}
        assert top == {
            "woodfrog.manifest", "config.dump", "spec.dump", "checkpoint", "rootfs-diff.tar", "deleted.files", "devshm-checkpoint.tar", "volumes",
        }  # fmt: skip
        config = json.load(tar.extractfile("config.dump") or io.BytesIO())
        spec = json.load(tar.extractfile("spec.dump") or io.BytesIO())
        deleted = json.load(tar.extractfile("deleted.files") or io.BytesIO())
        assert "volumes/cache-a.tar" in tar.getnames()
        checkpoint = [member for member in tar if member.name.startswith("checkpoint")]
        tar.extractall(place.into, members=checkpoint, filter="data")
    assert (config["id"], config["name"], config["runtime"]) == (SNAPSHOT, KEY.id, "runc")
    assert config["rootfsImageName"] == "docker.io/library/redis:8"
    assert config["createdTime"] == "2026-11-23T00:00:00Z"
    assert spec["annotations"]["io.container.manager"] == "containerd"
    assert spec["annotations"]["io.kubernetes.cri.sandbox-name"] == "redis-0"
    assert spec["annotations"]["org.criu.checkpoint.criu.version"] == "4.1"
    assert spec["mounts"] == [{"destination": "/data"}, {"destination": "/proc"}]
    assert deleted == ["/etc/gone"]
    assert contents(place.into / "checkpoint") == contents(place.images)


@pytest.mark.parametrize("name", ["rootfs-diff.tar", "devshm-checkpoint.tar", "volumes/cache-a.tar"])
def test_a_tree_comes_out_of_its_archive_with_everything_about_it(place: Place, name: str) -> None:
    archive, _ = exported(place)
    with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(name), errors="surrogateescape") as tar:
        found = {member.name: member for member in tar}
        file = found["etc/file"]
        body = tar.extractfile(file)
        assert body is not None
        assert body.read() == noise(MIB + 3) + bytes(2 * MIB)
    assert (file.mode, file.uid, file.gid, int(file.mtime)) == (0o4640, 7, 8, 1_700_000_000)
    assert file.pax_headers["SCHILY.xattr.user.a"].encode("utf-8", "surrogateescape") == b"\xfe\x00b"
    assert (found["etc/same"].islnk(), found["etc/same"].linkname) == (True, "etc/file")
    assert (found["etc/to"].issym(), found["etc/to"].linkname) == (True, "/some/where")
    assert found[os.fsdecode(b"odd-\xff-name")].isfifo()
    assert ("etc/.wh..wh..opq" in found) == (name == "rootfs-diff.tar")
    assert not {"run.sock", "etc/gone"} & set(found)


def test_broken_bytes_make_no_archive(place: Place) -> None:
    mixed(place)
    stored = place.put()
    manifest = place.open(stored)
    (pack,) = place.packs()
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    archive = place.into.with_suffix(".tar")
    with place.store.reader(manifest) as reader:
        assert refusal(lambda: ArchiveWriter(manifest, reader).write(archive)).failure.code == "snapshot-corrupt"
    assert [path.name for path in archive.parent.iterdir() if "tar" in path.name] == []


def test_a_snapshot_is_described_with_its_trees_and_its_largest_files(place: Place) -> None:
    _, manifest = exported(place)
    told = described(manifest)
    assert [tree["tree"] for tree in told["trees"]] == ["processes", "layer", "shm", "volume /cache/a"]
    assert told["trees"][1]["deleted"] == 1
    assert told["largest_files"][0]["path"] == "pages-1.img"
    assert 0 < told["largest_files"][0]["stored_bytes"] <= told["stored_bytes"]
    assert told["trees"][1]["stored_bytes"] == pytest.approx(MIB + 3, rel=0.01), "holes cost nothing, equal chunks once"


NEW = CheckpointKey("elsewhere", "prod", "b")


def brought(archive: Path, store: SnapshotStore) -> Manifest:
    """Import an archive into a store, as ``woodfrog import`` does."""
    unpacked = archive.with_name("unpacked")
    unpacked.mkdir()
    with ArchiveReader(archive) as reader:
        header = header_of(reader.manifest, NEW, SnapshotId("20261123T000000Z-00000001"))
        stored = store.put(header, reader.unpack(unpacked))
    return store.open_manifest(NEW, header.snapshot_id, stored.manifest_digest)


def essence(manifest: Manifest) -> object:
    """What a restore needs of a manifest: everything but whose it is and in which packs its chunks lie."""
    digests = [chunk.digest for chunk in manifest.chunks]
    trees = [
        (tree.name, tree.volume, tree.root, [
            (msgspec.structs.replace(entry, chunks=()), [HOLE if at == HOLE else digests[at] for at in entry.chunks])
            for entry in tree.entries
        ])
        for tree in manifest.trees
    ]  # fmt: skip
    rest = msgspec.structs.replace(manifest, key=KEY, snapshot_id=SNAPSHOT, trees=(), chunks=(), packs=())
    return rest, trees


def test_an_imported_snapshot_is_the_exported_one_under_another_name(place: Place, tmp_path: Path) -> None:
    archive, manifest = exported(place)
    found = brought(archive, SnapshotStore((tmp_path / "other").as_uri(), workers=2))
    assert (found.key, found.snapshot_id) == (NEW, "20261123T000000Z-00000001")
    assert essence(found) == essence(manifest)


def test_two_volumes_of_one_name_in_the_archive_come_back_each_as_itself(place: Place, tmp_path: Path) -> None:
    place.write("pages-1.img", noise(MIB))
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1" * 10)
    two.write_bytes(b"2" * 10)
    entry = Entry("f", "file", 0o600, size_bytes=10)
    trees = [
        place.listed(),
        replace(CapturedTree(TreeName.VOLUME, (entry,), {"f": one}), volume="/a-b"),
        replace(CapturedTree(TreeName.VOLUME, (entry,), {"f": two}), volume="/a/b"),
    ]
    manifest = place.open(place.store.put(HEADER, trees))
    archive = place.into.with_suffix(".tar")
    with place.store.reader(manifest) as reader:
        ArchiveWriter(manifest, reader).write(archive)
    assert essence(brought(archive, SnapshotStore((tmp_path / "other").as_uri(), workers=2))) == essence(manifest)


def rewritten(archive: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[str, bytes] | None]) -> Path:
    """Write the archive anew with some of its members changed or left out."""
    other = archive.with_name("rewritten.tar")
    with tarfile.open(archive) as old, tarfile.open(other, "w") as new:
        for member in old:
            data = (old.extractfile(member) or io.BytesIO()).read() if member.isreg() else b""
            changed = change(member, data)
            if changed is not None:
                member.name, data = changed
                member.size = len(data)
                new.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return other


@pytest.mark.parametrize(
    ("member", "change", "code"),
    [
        ("checkpoint/pages-1.img", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "archive-corrupt"),
        ("checkpoint/pages-1.img", lambda data: data[:-1], "archive-corrupt"),
        ("checkpoint/pages-1.img", lambda _: None, "archive-corrupt"),
        ("rootfs-diff.tar", lambda data: data[:2048], "archive-unreadable"),
        ("rootfs-diff.tar", lambda data: data.replace(b"/some/where", b"/etc/shadow"), None),
        ("woodfrog.manifest", lambda _: None, "archive-without-manifest"),
        ("woodfrog.manifest", lambda data: data.replace(b'"etc/file"', b'"../../fil"'), "snapshot-corrupt"),
        ("woodfrog.manifest", lambda data: data.replace(b'"default"', b'"../else"'), "archive-corrupt"),
        ("woodfrog.manifest", lambda data: data.replace(b'"version":1', b'"version":9'), "snapshot-format-unknown"),
        ("woodfrog.manifest", lambda data: data[:-9], "archive-corrupt"),
        (
            "woodfrog.manifest",
            lambda data: re.sub(rb'("image":")[^"]*', rb"\1a\\u0000b", data),
            "archive-corrupt",
        ),
    ],
)
def test_an_archive_that_is_not_what_was_exported_is_refused(
    place: Place, tmp_path: Path, member: str, change: Callable[[bytes], bytes | None], code: str | None
) -> None:
    archive, manifest = exported(place)
    seen = []

    def act(info: tarfile.TarInfo, data: bytes) -> tuple[str, bytes] | None:
        if info.name != member:
            return info.name, data
        seen.append(info.name)
        changed = change(data)
        return None if changed is None else (info.name, changed)

    other = rewritten(archive, act)
    assert seen == [member]
    store = SnapshotStore((tmp_path / "other").as_uri(), workers=2)
    if code is None:  # of links, names and attributes nothing is taken from the archive but from the manifest
        assert essence(brought(other, store)) == essence(manifest)
    else:
        failure = refusal(lambda: brought(other, store)).failure
        assert failure.code == code
        assert str(other) in failure.cause
        assert failure.advice
        assert "node" not in failure.advice  # nobody restores it here
        assert not (tmp_path / "other" / str(NEW)).exists()


@pytest.mark.parametrize("part", [0.05, 0.5, 0.97])
def test_an_archive_that_ends_early_is_refused(place: Place, tmp_path: Path, part: float) -> None:
    archive, _ = exported(place)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * part)])
    store = SnapshotStore((tmp_path / "other").as_uri(), workers=2)
    failure = refusal(lambda: brought(archive, store)).failure
    assert failure.code in {"archive-unreadable", "archive-corrupt", "archive-without-manifest"}
    assert str(archive) in failure.cause
    assert "again" in failure.advice or "export" in failure.advice
    assert not (tmp_path / "other" / str(NEW)).exists()


def test_what_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.tar"
    for data in (b"", b"no archive", noise(MIB)):
        text.write_bytes(data)
        assert refusal(lambda: ArchiveReader(text)).failure.code == "archive-unreadable"
    assert refusal(lambda: ArchiveReader(tmp_path / "nowhere.tar")).failure.code == "archive-unreadable"


def test_nothing_is_put_unsealed_into_a_store_whose_snapshots_are_sealed(place: Place) -> None:
    place.store.check_key()
    mixed(place)
    keys = KeyRing((StoreKey(bytes(32)),))
    sealed = SnapshotStore(place.root.as_uri(), workers=2, keys=keys)
    sealed.put(HEADER, [place.listed()])
    sealed.check_key()
    assert refusal(place.store.check_key).failure.code == "store-sealed"
    _, public = write_pair(place.root.parent)
    with_keys = SnapshotStore(place.root.as_uri(), workers=2, keys=keys, recipient=Recipient.from_file(public))
    with_keys.put(HEADER, [place.listed()])
    with_keys.check_key()
    assert refusal(sealed.check_key).failure.code == "recipient-missing"
