"""Any tree that a container can make survives copy, store and apply; on an overlay, its merged view does."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeworker.capture.trees import CapturedTree, apply_tree, copy_tree
from nodeworker.domain.filename_codec import bytes_of, text_of
from nodeworker.store import ManifestHeader, SnapshotStore, tree_of
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import TreeName

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

KEY = CheckpointKey("local", "default", "tree")
SNAPSHOT = SnapshotId("20261123T214501Z-5f3a9c1e")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw=ep, as setcap(8) writes it."""

names = st.sampled_from(
    [b"a", b"b", b"c d", b"new\nline", "ünï".encode(), b"\xff\xfe", b"\xf4\x8f\xbf\xbe", b".wh.x", b"-rf", b"%41"]
)
kinds = st.sampled_from(["directory", "file", "file", "sparse", "symlink", "fifo", "socket", "hardlink", "device"])


@dataclass(frozen=True)
class Spec:
    path: tuple[bytes, ...]
    kind: str
    mode: int
    owner: int
    seconds: int
    content: bytes
    xattr: bytes | None
    capable: bool


specs = st.builds(
    Spec,
    path=st.lists(names, min_size=1, max_size=4).map(tuple),
    kind=kinds,
    mode=st.sampled_from([0o666, 0o4755, 0o2711, 0o1777, 0o000, 0o600, 0o755]),
    owner=st.sampled_from([0, 1000, 4_000_000_000]),
    seconds=st.sampled_from([-5, 0, 1, 1_700_000_000]),
    content=st.one_of(st.binary(max_size=200), st.sampled_from([bytes(5000), b"x" * 70_000])),
    xattr=st.one_of(st.none(), st.binary(max_size=30)),
    capable=st.booleans(),
)


def build(root: Path, trees: list[Spec]) -> None:
    """Make what can be made; whatever is in the way of a later spec is removed, as a container would."""
    files: list[Path] = []
    for number, spec in enumerate(trees):
        parent = root
        for name in spec.path[:-1]:
            parent /= os.fsdecode(name)
            if not is_directory(parent):
                remove(parent)
                parent.mkdir()
        path = parent / os.fsdecode(spec.path[-1])
        if spec.content or not (spec.kind == "directory" and is_directory(path)):
            remove(path)  # a directory that is removed and made again is what an overlay calls opaque
            make(path, spec, files, number)
        describe(path, spec)
    for path in sorted(root.rglob("*"), reverse=True):
        chosen = sum(os.fsencode(path.relative_to(root)))
        if chosen % 3:  # on an overlay, the others stay in the image
            seconds = trees[chosen % len(trees)].seconds
            os.utime(path, ns=(0, seconds * 10**9 + 123_456_000), follow_symlinks=False)


def describe(path: Path, spec: Spec) -> None:
    os.lchown(path, spec.owner, spec.owner)
    if spec.kind != "symlink":
        path.chmod(spec.mode)
    if spec.kind in {"file", "sparse", "directory"} and spec.xattr is not None:
        os.setxattr(path, "user.odd", spec.xattr)
    if spec.kind in {"file", "hardlink"} and spec.capable:
        os.setxattr(path, "security.capability", CAPABILITY)


def make(path: Path, spec: Spec, files: list[Path], number: int) -> None:
    if spec.kind == "directory":
        path.mkdir()
    elif spec.kind == "symlink":
        path.symlink_to(["/etc/passwd", "..", "a", os.fsdecode(b"\xff dangling")][number % 4])
    elif spec.kind == "fifo":
        os.mkfifo(path)
    elif spec.kind == "socket":
        os.mknod(path, 0o600 | stat.S_IFSOCK)
    elif spec.kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    elif spec.kind == "hardlink" and files and files[number % len(files)].is_file():
        path.hardlink_to(files[number % len(files)])
    else:
        with path.open("wb") as file:
            file.seek((3 << 20) if spec.kind == "sparse" else 0)
            file.write(spec.content)
            file.truncate((7 << 20) if spec.kind == "sparse" else None)
        files.append(path)


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    if is_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seen(root: Path) -> dict[Path, tuple[object, ...]]:
    """What a process can see of a tree, devices left out; names of one file are told by a common first name."""
    first: dict[int, Path] = {}
    view: dict[Path, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if kind in {stat.S_IFCHR, stat.S_IFBLK}:
            continue
        name = path.relative_to(root)
        same = first.setdefault(status.st_ino, name) if kind != stat.S_IFDIR else name
        content = path.read_bytes() if kind == stat.S_IFREG else None
        target = os.fsencode(path.readlink()) if kind == stat.S_IFLNK else None
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        xattrs = {key: value for key, value in xattrs.items() if not key.startswith("trusted.overlay")}
        view[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, same, content, target, xattrs)
    return view


def through_the_store(tree: CapturedTree, base: Path, target: Path) -> None:
    store = SnapshotStore((base / "store").as_uri(), workers=1)
    now = datetime.now(UTC)
    header = ManifestHeader(SNAPSHOT, KEY, IncarnationNumber(1), now, NodeFacts(), ContainerFacts())
    stored = store.put(header, [tree])
    manifest = store.open_manifest(KEY, SNAPSHOT, stored.manifest_digest)
    with store.reader(manifest) as reader:
        apply_tree(tree_of(manifest, tree.name), target, reader)


quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(specs, min_size=1, max_size=14))
def test_a_tree_survives_copy_store_and_apply(trees: list[Spec]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "source").mkdir()
        (base / "target").mkdir()
        build(base / "source", trees)
        before = seen(base / "source")
        through_the_store(
            copy_tree(TreeName.SHM, base / "source", base / "spool", overlay=False), base, base / "target"
        )
        assert seen(base / "target") == before


@quick
@given(
    st.lists(specs, max_size=10), st.lists(specs, min_size=1, max_size=10), st.lists(st.integers(0, 100), max_size=4)
)
def test_what_a_container_changed_on_its_image_is_the_same_on_another_node(
    image: list[Spec], changes: list[Spec], deletions: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name, mounted(Path(name)) as (here, there, upper, image_root):
        base = Path(name)
        if image:
            build(image_root, image)
        remount(base)
        everything = sorted(here.rglob("*"))
        for number in deletions:
            if everything:
                remove(everything[number % len(everything)])
        build(here, changes)
        before = seen(here)
        through_the_store(copy_tree(TreeName.LAYER, upper, base / "spool", overlay=True), base, there)
        assert seen(there) == before


class mounted:  # noqa: N801 (a context manager)
    """Two overlays on the same image."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def __enter__(self) -> tuple[Path, Path, Path, Path]:
        for name in ("image", "here", "there", "u1", "u2", "w1", "w2"):
            (self.base / name).mkdir()
        return self.base / "here", self.base / "there", self.base / "u1", self.base / "image"

    def __exit__(self, *_: object) -> None:
        for name in ("here", "there"):
            subprocess.run(["umount", str(self.base / name)], check=True)


def remount(base: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in (("here", 1), ("there", 2)):
        data = f"lowerdir={base}/image,upperdir={base}/u{number},workdir={base}/w{number}"
        assert libc.mount(b"overlay", os.fsencode(base / name), b"overlay", 0, data.encode()) == 0


@given(st.binary(min_size=1))
def test_every_file_name_comes_back_byte_for_byte(name: bytes) -> None:
    text = text_of(name)
    text.encode()
    assert bytes_of(text) == name


@given(st.binary(), st.binary())
def test_no_two_file_names_share_a_text(one: bytes, other: bytes) -> None:
    assert (text_of(one) == text_of(other)) == (one == other)


def test_a_directory_that_was_removed_and_made_again_hides_the_one_of_the_image(tmp_path: Path) -> None:
    with mounted(tmp_path) as (here, there, upper, image):
        (image / "a/deep").mkdir(parents=True)
        (image / "a/old").write_text("of the image")
        (image / "b").mkdir()
        (image / "b/gone").write_text("of the image")
        (image / "b/stays").write_text("of the image")
        remount(tmp_path)
        shutil.rmtree(here / "a")
        (here / "a").mkdir()
        (here / "a/new").write_text("of the container")
        (here / "b/gone").unlink()
        tree = copy_tree(TreeName.LAYER, upper, tmp_path / "spool", overlay=True)
        through_the_store(tree, tmp_path, there)
        assert seen(there) == seen(here)
        assert [path.name for path in (there / "a").iterdir()] == ["new"]
        assert [path.name for path in (there / "b").iterdir()] == ["stays"]
