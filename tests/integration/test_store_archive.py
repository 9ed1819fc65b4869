"""Checkpoint archives: what is in a snapshot is in them, under the names that checkpointctl knows."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.snapshots import HEADER, KEY, MIB, SNAPSHOT, Place, contents, mixed, noise, refusal

from nodeworker.capture.trees import CapturedTree
from nodeworker.domain.filename_codec import text_of
from nodeworker.store.archive import ArchiveWriter
from woodfrog.cli.snapshot_contents import described
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.manifest import Entry, Manifest, TreeName

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
            "config.dump", "spec.dump", "checkpoint", "rootfs-diff.tar", "deleted.files", "devshm-checkpoint.tar", "volumes",
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
