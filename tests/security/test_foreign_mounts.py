"""A pod's author mounts what is not the pod's own at /dev/shm, or mounts read-only: nothing is copied from there or written there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nodeworker import bundle
from nodeworker.capture.trees import ReadInto
from nodeworker.domain.mounts import is_engines_shm, is_read_only
from nodeworker.restore import restore_files
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import MANIFEST_VERSION, Entry, EntryKind, Manifest, Root, Tree, TreeName

POD = "0b7c"
SANDBOX = "5a4d"
ID = "5f" * 32


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where engines and the kubelet mount such."""
    folder = Path(tempfile.mkdtemp(prefix="wf-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def live(folder: Path, *mounts: tuple[str, Path, str]) -> bundle.Bundle:
    config = {
        "root": {"path": "rootfs"},
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-namespace": "tenant",
            "io.kubernetes.cri.sandbox-uid": POD,
            "io.kubernetes.cri.sandbox-id": SANDBOX,
        },
        "mounts": [
            {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", "rprivate", mode]}
            for place, source, mode in mounts
        ],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return bundle.read(str(folder))


def snapshot(*trees: Tree) -> Manifest:
    return Manifest(
        version=MANIFEST_VERSION,
        snapshot_id=SnapshotId("20261123T214501Z-5f3a9c1e"),
        key=CheckpointKey("c", "tenant", "a"),
        incarnation=IncarnationNumber(1),
        taken_at=datetime(2026, 11, 23, tzinfo=UTC),
        node_facts=NodeFacts("x86_64"),
        container_facts=ContainerFacts(),
        stopped_pids=(),
        chunk_bytes=1 << 20,
        trees=trees,
        chunks=(),
        packs=(),
    )


def tree(name: TreeName, volume: str = "", path: str = "passwd", kind: EntryKind = "file") -> Tree:
    who = {"uid": os.getuid(), "gid": os.getgid()}
    target = "..data" if kind == "symlink" else None
    size = 4 if kind == "file" else 0
    entries = (Entry(path, kind, 0o644, size_bytes=size, target=target, **who),)
    return Tree(name, entries, Root(0o1777, mtime_ns=0, **who), volume)


@contextmanager
def reader(_: Tree) -> Iterator[ReadInto]:
    yield lambda entry, descriptor: (os.pwrite(descriptor, b"evil", 0), None)[1]


def put(manifest: Manifest, into: bundle.Bundle, base: Path) -> tuple[str, ...]:
    (base / "notes").mkdir(exist_ok=True)
    return restore_files.apply(
        manifest.trees, into, base / "notes", reader, restore_files.PodPeers(list, returning=False)
    )


def state(folder: Path) -> list[tuple[str, int, bytes]]:
    return [
        (str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *sorted(folder.rglob("*"))]
    ]


def place(base: Path, kind: str) -> Path:
    kubelet = base / "pods" / POD / "volumes"
    folder = {
        "hostPath": base / "etc",
        "claim": kubelet / "kubernetes.io~csi" / "pvc-1" / "mount",
        "secret": kubelet / "kubernetes.io~secret" / "token",
        "another pod's emptyDir": base / "pods" / "other" / "volumes" / "kubernetes.io~empty-dir" / "work",
        "another pod's shm": base / "sandboxes" / "other" / "shm",
        "a sandbox's directory that is no tmpfs": Path(str(base).replace("/dev/shm", "/tmp"))
        / "sandboxes"
        / SANDBOX
        / "shm",
        "emptyDir": kubelet / "kubernetes.io~empty-dir" / "work",
        "shm": base / "sandboxes" / SANDBOX / "shm",
    }[kind]
    folder.mkdir(parents=True)
    (folder / "passwd").write_text("root")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "hostPath",
        "claim",
        "secret",
        "another pod's emptyDir",
        "another pod's shm",
        "a sandbox's directory that is no tmpfs",
    ],
)
@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_what_is_not_the_pods_own_at_dev_shm_is_neither_copied_nor_written(
    kind: str, mode: str, memory: Path, tmp_path: Path
) -> None:
    source = place(memory, kind)
    before = state(source)
    read = live(tmp_path, ("/dev/shm", source, mode))
    assert read.travelling_shm is None
    assert read.travelling == {}
    with pytest.raises(FailureError) as caught:
        put(snapshot(tree(TreeName.SHM)), read, tmp_path)
    assert caught.value.failure.code == "shm-missing"
    assert state(source) == before
    if not source.is_relative_to(memory):
        shutil.rmtree(source.parents[2])


def test_the_sandboxs_own_shared_memory_travels_and_is_put_back(memory: Path, tmp_path: Path) -> None:
    source = place(memory, "shm")
    read = live(tmp_path, ("/dev/shm", source, "rw"))
    assert read.travelling_shm == source
    put(snapshot(tree(TreeName.SHM)), read, tmp_path)
    assert (source / "passwd").read_text() == "evil"


def test_an_empty_dir_at_dev_shm_travels_as_the_volume_that_it_is(memory: Path, tmp_path: Path) -> None:
    source = place(memory, "emptyDir")
    read = live(tmp_path, ("/dev/shm", source, "rw"))
    assert read.travelling_shm is None
    assert read.travelling == {"work": source}
    put(snapshot(tree(TreeName.SHM)), read, tmp_path)
    assert (source / "passwd").read_text() == "root", "a snapshot of an earlier version holds it twice"
    put(snapshot(tree(TreeName.VOLUME, "work")), read, tmp_path)
    assert (source / "passwd").read_text() == "evil"


@pytest.mark.parametrize(("kind", "where"), [("shm", "/dev/shm"), ("emptyDir", "/dev/shm"), ("emptyDir", "/work")])
def test_nothing_is_written_into_a_mount_that_is_read_only(kind: str, where: str, memory: Path, tmp_path: Path) -> None:
    source = place(memory, kind)
    before = state(source)
    read = live(tmp_path, (where, source, "ro"))
    assert read.travelling_shm is None
    assert read.travelling == {}
    warnings = put(snapshot(tree(TreeName.VOLUME, "work")), read, tmp_path)
    assert state(source) == before
    if kind == "emptyDir":
        assert "may only read its volume work" in warnings[0]


def test_a_volume_that_is_also_mounted_writable_travels(memory: Path, tmp_path: Path) -> None:
    source = place(memory, "emptyDir")
    assert live(tmp_path, ("/a", source, "ro"), ("/b", source, "rw")).travelling == {"work": source}
    assert live(tmp_path, ("/b", source, "rw"), ("/a", source, "ro")).travelling == {"work": source}


@pytest.mark.parametrize(
    ("kind", "taken"), [("secret", True), ("hostPath", False), ("claim", False), ("emptyDir", False)]
)
def test_the_name_of_a_configs_files_is_put_only_where_the_kubelet_keeps_configs(
    kind: str, taken: bool, memory: Path, tmp_path: Path
) -> None:
    source = place(memory, kind)
    (source / "..2026_11_23").mkdir()
    (source / "..data").symlink_to("..2026_11_23")
    read = live(tmp_path, ("/etc/config", source, "ro"))
    put(snapshot(tree(TreeName.CONFIG, "/etc/config", "..2025_01_01", "symlink")), read, tmp_path)
    assert (source / "..2025_01_01").is_symlink() == taken
    assert (source / "passwd").read_text() == "root"


@pytest.mark.parametrize(
    ("source", "sandbox", "own"),
    [
        (f"/run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}/shm", SANDBOX, True),
        (f"/run/containers/storage/overlay-containers/{SANDBOX}/userdata/shm", SANDBOX, True),
        ("/dev/shm", SANDBOX, False),
        (f"/run/containerd/sandboxes/{SANDBOX}/shm/below", SANDBOX, False),
        (f"/var/lib/docker/containers/{ID}/mounts/shm", "", True),
        (f"/var/lib/docker/containers/{ID}/mounts/shm", SANDBOX, False),
        (f"/var/lib/containers/storage/overlay-containers/{ID}/userdata/shm", "", True),
        ("/dev/shm", "", False),
        ("/data/shm", "", False),
    ],
)
def test_an_engines_own_shared_memory_is_known_by_its_place(source: str, sandbox: str, own: bool) -> None:
    assert is_engines_shm(source, sandbox) == own


@pytest.mark.parametrize(
    ("options", "read_only"),
    [
        ([], False),
        (["ro"], True),
        (["rw"], False),
        (["ro", "rw"], False),
        (["rw", "ro"], True),
        (["rbind", "rro"], True),
    ],
)
def test_the_last_of_contradicting_options_counts(options: list[str], read_only: bool) -> None:
    mount: dict[str, Any] = {"destination": "/a", "options": options}
    assert is_read_only(mount) == read_only
