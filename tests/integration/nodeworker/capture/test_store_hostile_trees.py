"""Applying trees from an enemy, over a root that an enemy has laid out: nothing outside of the root is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nodeworker.capture.trees import apply_tree, copy_tree, root_of
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Entry, Root, Tree, TreeName

PAYLOAD = b"payload"


def fill(entry: Entry, descriptor: int) -> None:
    os.write(descriptor, PAYLOAD)


def file(path: str, **more: object) -> Entry:
    return Entry(path, "file", **{"mode": 0o644, "uid": os.getuid(), "gid": os.getgid(), "size_bytes": 7, **more})  # type: ignore[arg-type]


def directory(path: str, **more: object) -> Entry:
    return Entry(path, "directory", **{"mode": 0o755, "uid": os.getuid(), "gid": os.getgid(), **more})  # type: ignore[arg-type]


class Trap:
    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.outside = base / "outside"
        self.root.mkdir()
        (self.outside / "kept").mkdir(parents=True)
        (self.outside / "secret").write_text("secret")
        self.outside.chmod(0o750)
        self.before = self.state()

    def state(self) -> list[object]:
        paths = [self.outside, *sorted(self.outside.rglob("*"))]
        return [(path, path.stat(), path.read_bytes() if path.is_file() else None) for path in paths]

    def apply(self, *entries: Entry) -> None:
        try:
            apply_tree(Tree(TreeName.LAYER, entries), self.root, fill)
        finally:
            assert self.fingerprint(self.state()) == self.fingerprint(self.before), "something outside has changed"

    @staticmethod
    def fingerprint(state: list[object]) -> list[object]:
        """Everything but the access time and, for links from inside, nothing else."""
        return [(path, s.st_mode, s.st_uid, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink, data) for path, s, data in state]  # type: ignore[attr-defined,misc]

    def refused(self, *entries: Entry) -> str:
        with pytest.raises(FailureError) as caught:
            self.apply(*entries)
        assert caught.value.failure.code == "snapshot-corrupt"
        return caught.value.failure.cause


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../outside/new",
        "a/../../outside/new",
        "/outside/new",
        "",
        ".",
        "a//b",
        "a\0b",
        "\U0010fffe2e\U0010fffe2e/outside/new",
        "\U0010fffe2e\U0010fffe2e\U0010fffe2foutside\U0010fffe2fnew",
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory", "whiteout"])
def test_a_path_that_leaves_the_root_is_refused(trap: Trap, path: str, kind: str) -> None:
    trap.refused(Entry(path, kind, size_bytes=7 if kind == "file" else 0))  # type: ignore[arg-type]
    assert list(trap.root.iterdir()) == []


def test_nothing_is_written_through_a_symlink_of_the_tree(trap: Trap) -> None:
    link = Entry("link", "symlink", target=str(trap.outside), uid=os.getuid(), gid=os.getgid())
    assert "link/new" in trap.refused(link, file("link/new"))


def test_nothing_is_written_through_a_symlink_that_replaces_a_directory_of_the_tree(trap: Trap) -> None:
    link = Entry("a", "symlink", target=str(trap.outside), uid=os.getuid(), gid=os.getgid())
    trap.refused(directory("a"), file("a/inside"), link, file("a/new"))


def test_a_directory_that_is_replaced_while_it_is_in_use_is_refused(trap: Trap) -> None:
    link = Entry("a/b", "symlink", target=str(trap.outside), uid=os.getuid(), gid=os.getgid())
    trap.refused(directory("a"), directory("a/b"), file("a/b/c"), link)


def test_nothing_is_written_through_a_symlink_that_lies_in_the_root(trap: Trap) -> None:
    (trap.root / "a").symlink_to(trap.outside)
    trap.refused(file("a/new"))


def test_a_symlink_in_the_place_of_a_directory_is_replaced_and_not_followed(trap: Trap) -> None:
    (trap.root / "a").symlink_to(trap.outside)
    trap.apply(directory("a", opaque=True, mode=0o700), file("a/secret"))
    assert not (trap.root / "a").is_symlink()
    assert (trap.root / "a/secret").read_bytes() == PAYLOAD


def test_a_symlink_in_the_place_of_a_file_is_replaced_and_not_followed(trap: Trap) -> None:
    (trap.root / "a").symlink_to(trap.outside / "secret")
    trap.apply(file("a"))
    assert (trap.root / "a").read_bytes() == PAYLOAD


def test_a_file_is_never_written_into_another_name_of_an_outside_file(trap: Trap) -> None:
    (trap.root / "a").write_text("shared")
    (trap.root / "b").hardlink_to(trap.root / "a")
    trap.apply(file("a"))
    assert (trap.root / "b").read_text() == "shared"


def test_emptying_a_directory_removes_links_and_not_what_they_name(trap: Trap) -> None:
    (trap.root / "a/deep").mkdir(parents=True)
    (trap.root / "a/link").symlink_to(trap.outside)
    (trap.root / "a/deep/link").symlink_to(trap.outside)
    trap.apply(directory("a", opaque=True))
    assert list((trap.root / "a").iterdir()) == []


def test_a_whiteout_removes_a_link_a_directory_or_nothing(trap: Trap) -> None:
    (trap.root / "link").symlink_to(trap.outside)
    (trap.root / "full/deep").mkdir(parents=True)
    (trap.root / "full/link").symlink_to(trap.outside)
    trap.apply(Entry("full", "whiteout"), Entry("gone", "whiteout"), Entry("link", "whiteout"))
    assert list(trap.root.iterdir()) == []


def test_a_whiteout_below_a_link_is_refused(trap: Trap) -> None:
    (trap.root / "a").symlink_to(trap.outside)
    trap.refused(Entry("a/secret", "whiteout"))


@pytest.mark.parametrize("target", ["../outside/secret", "/etc/passwd", "there", "link/secret", "a"])
def test_a_hard_link_to_anything_but_a_file_of_the_tree_is_refused(trap: Trap, target: str) -> None:
    (trap.root / "there").write_text("of the image")
    (trap.root / "link").symlink_to(trap.outside)
    trap.refused(file("a", size_bytes=0, hardlink=target))


def test_a_hard_link_to_a_symlink_that_took_a_files_name_is_refused(trap: Trap) -> None:
    link = Entry("a", "symlink", target=str(trap.outside / "secret"), uid=os.getuid(), gid=os.getgid())
    trap.refused(file("a"), link, file("b", size_bytes=0, hardlink="a"))


@pytest.mark.parametrize("kind", ["block", "char", "device", "door"])
def test_a_kind_that_snapshots_do_not_have_is_refused(trap: Trap, kind: str) -> None:
    assert kind in trap.refused(Entry("a", kind))  # type: ignore[arg-type]
    assert list(trap.root.iterdir()) == []


@pytest.mark.parametrize("kind", ["socket", "fifo"])
def test_special_files_have_their_own_mode_and_are_no_devices(trap: Trap, kind: str) -> None:
    mode = stat.S_IFCHR | 0o640
    trap.apply(Entry("a", kind, mode=mode, uid=os.getuid(), gid=os.getgid()))  # type: ignore[arg-type]
    status = (trap.root / "a").lstat()
    assert stat.S_IFMT(status.st_mode) == (stat.S_IFSOCK if kind == "socket" else stat.S_IFIFO)
    assert stat.S_IMODE(status.st_mode) == 0o640


@pytest.mark.parametrize(
    "name", ["trusted.overlay.redirect", "trusted.overlay.opaque", "security.selinux", "security.ima"]
)
def test_attributes_that_belong_to_the_node_are_refused(trap: Trap, name: str) -> None:
    assert name in trap.refused(file("a", xattrs={name: b"/etc"}))


def test_the_directory_of_a_tree_gets_its_own_attributes_and_no_others(trap: Trap) -> None:
    theirs = Root(0o1711, os.getuid(), os.getgid(), 5, {"user.mine": b"1"})
    apply_tree(Tree(TreeName.SHM, (file("new"),), theirs), trap.root, fill)
    assert root_of(trap.root) == theirs
    with pytest.raises(FailureError) as caught:
        apply_tree(Tree(TreeName.SHM, (), Root(0o755, 0, 0, 0, {"security.selinux": b"1"})), trap.root, fill)
    assert caught.value.failure.code == "snapshot-corrupt"


def test_attributes_that_the_container_had_removed_are_removed(trap: Trap) -> None:
    (trap.root / "a").mkdir()
    os.setxattr(trap.root / "a", "user.old", b"1")
    trap.apply(directory("a", xattrs={"user.new": b"2"}))
    assert os.listxattr(trap.root / "a") == ["user.new"]


@pytest.mark.root
@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_an_overlay_that_names_places_in_other_layers_is_not_captured(tmp_path: Path, mark: str) -> None:
    (tmp_path / "upper/moved").mkdir(parents=True)
    os.setxattr(tmp_path / "upper/moved", f"trusted.overlay.{mark}", b"/etc")
    with pytest.raises(FailureError) as caught:
        copy_tree(TreeName.LAYER, tmp_path / "upper", tmp_path / "spool", overlay=True)
    assert caught.value.failure.code == "overlay-unsupported"
    assert "moved" in caught.value.failure.cause


@pytest.mark.root
def test_overlayfs_own_marks_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "upper/a").mkdir(parents=True)
    for name in ("origin", "impure", "uuid", "nlink"):
        os.setxattr(tmp_path / "upper/a", f"trusted.overlay.{name}", b"y")
    (tmp_path / "upper/deleted").write_bytes(b"")
    os.setxattr(tmp_path / "upper/deleted", "trusted.overlay.whiteout", b"")
    tree = copy_tree(TreeName.LAYER, tmp_path / "upper", tmp_path / "spool", overlay=True)
    assert [(entry.path, entry.kind, entry.opaque, entry.xattrs) for entry in tree.entries] == [
        ("a", "directory", False, {}),
        ("deleted", "whiteout", False, {}),
    ]


def test_a_symlink_in_a_captured_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "secret").write_text("of the node")
    (tmp_path / "tree/link").symlink_to(tmp_path / "secret")
    (tmp_path / "tree/away").symlink_to(tmp_path)
    tree = copy_tree(TreeName.SHM, tmp_path / "tree", tmp_path / "spool", overlay=False)
    assert [entry.kind for entry in tree.entries] == ["symlink", "symlink"]
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.root
def test_devices_are_left_behind_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    os.mknod(tmp_path / "upper/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    tree = copy_tree(TreeName.LAYER, tmp_path / "upper", tmp_path / "spool", overlay=True)
    assert [(entry.path, entry.kind) for entry in tree.entries] == [("null", "whiteout")]
    assert "null" in tree.warnings[0]


def test_a_copy_stays_what_it_was_when_the_container_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"at the dump")
    tree = copy_tree(TreeName.SHM, tmp_path / "tree", tmp_path / "spool", overlay=False)
    (tmp_path / "tree/a").write_bytes(b"afterwards!")
    assert tree.contents["a"].read_bytes() == b"at the dump"


@pytest.mark.root
def test_files_are_copied_between_file_systems(tmp_path: Path) -> None:
    source = Path("/dev/shm") / f"woodfrog-test-{os.getpid()}"
    source.mkdir()
    try:
        (source / "a").write_bytes(b"shared memory" * 200_000)
        tree = copy_tree(TreeName.SHM, source, tmp_path / "spool", overlay=False)
        assert tree.contents["a"].read_bytes() == b"shared memory" * 200_000
    finally:
        for path in source.iterdir():
            path.unlink()
        source.rmdir()


def test_nesting_beyond_reason_is_refused_with_a_word(tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for _ in range(510):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(before)
    with pytest.raises(FailureError) as caught:
        copy_tree(TreeName.SHM, tmp_path / "tree", tmp_path / "spool", overlay=False)
    assert caught.value.failure.code == "tree-too-deep"
