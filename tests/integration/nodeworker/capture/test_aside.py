"""A snapshot's files come to a volume and go again, and what was there before is as it was, whatever stopped in between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nodeworker.capture.trees import Aside, CapturedTree, apply_tree, copy_tree, discard, rollback
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Entry, Tree

pytestmark = [pytest.mark.root, pytest.mark.timeout(10)]


def lay_out(root: Path, word: str) -> None:
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "dir" / "deep" / "file").write_text(word)
    (root / "both").write_text(word)
    (root / "link").symlink_to(word)
    os.link(root / "both", root / "dir" / "other-name")
    (root / f"only-{word}").write_text(word)


class Volume:
    def __init__(self, base: Path) -> None:
        self.base, self.root, self.notes = base, base / "volume", base / "notes"
        old = base / "old"
        for folder, word in ((old, "old"), (self.root, "new")):
            folder.mkdir()
            lay_out(folder, word)
        (self.root / "swapped").mkdir()
        (self.root / "swapped" / "inside").write_text("new")
        (old / "swapped").write_text("a file now")
        (old / "turned").mkdir()
        (old / "turned" / "inside").write_text("old")
        (self.root / "turned").symlink_to(base)
        captured = copy_tree_of(old, base / "spool")
        self.tree = Tree(captured.name, captured.entries, captured.root, captured.volume)
        self.contents = captured.contents
        self.before = state(self.root)

    def read_into(self, entry: Entry, descriptor: int) -> None:
        os.write(descriptor, self.contents[entry.path].read_bytes())

    def put(self, read_into: Callable[[Entry, int], None] | None = None) -> None:
        with closing(Aside(self.root, self.notes, None)) as aside:
            apply_tree(self.tree, self.root, read_into or self.read_into, aside)


def copy_tree_of(root: Path, spool: Path) -> CapturedTree:
    from woodfrog.protocol.manifest import TreeName  # noqa: PLC0415

    return copy_tree(TreeName.VOLUME, root, spool, shared=True, volume="work")


def state(root: Path) -> list[object]:
    return [
        (
            str(path.relative_to(root)),
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.lstat().st_ino,
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in (root, *sorted(root.rglob("*")))
    ]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def test_the_snapshot_wins_where_it_has_a_path_and_the_rest_stays(volume: Volume) -> None:
    volume.put()
    assert (volume.root / "dir" / "deep" / "file").read_text() == "old"
    assert (volume.root / "only-new").read_text() == "new"
    assert (volume.root / "only-old").read_text() == "old"
    assert (volume.root / "swapped").read_text() == "a file now"
    assert (volume.root / "turned" / "inside").read_text() == "old"
    assert (volume.root / "dir" / "other-name").samefile(volume.root / "both")
    assert (volume.root / "both").stat().st_mtime_ns == (volume.base / "old" / "both").stat().st_mtime_ns
    discard(volume.notes)
    assert not (volume.root / ".woodfrog-aside").exists()
    assert not volume.notes.exists()


def test_taken_back_every_file_is_the_one_that_was_there(volume: Volume) -> None:
    volume.put()
    assert state(volume.root) != volume.before
    rollback(volume.notes)
    assert state(volume.root) == volume.before


@pytest.mark.parametrize("failing", range(1, 6))
def test_what_stopped_half_way_is_taken_back_and_may_be_taken_back_twice(volume: Volume, failing: int) -> None:
    left = failing

    def read_into(entry: Entry, descriptor: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError("the store is gone")
        volume.read_into(entry, descriptor)

    with pytest.raises(OSError, match="the store is gone"):
        volume.put(read_into)
    notes = volume.notes.read_bytes()
    rollback(volume.notes)
    assert state(volume.root) == volume.before
    volume.notes.write_bytes(notes)
    rollback(volume.notes)
    assert state(volume.root) == volume.before


def test_a_step_that_was_noted_and_not_taken_is_no_harm(volume: Volume) -> None:
    volume.notes.write_text(
        f'{{"did":"in","path":"{volume.root}"}}\n'
        '{"did":"moved","path":"both","number":7}\n{"did":"made","path":"never/was"}\n{"did":"moved","path":"dir/deep/fi'
    )
    rollback(volume.notes)
    assert state(volume.root) == volume.before


def test_a_neighbours_file_stays_and_its_directory_keeps_its_mode(volume: Volume) -> None:
    (volume.root / "dir").chmod(0o1777)
    with closing(Aside(volume.root, volume.notes, lambda there, entry: entry.path == "both")) as aside:
        apply_tree(volume.tree, volume.root, volume.read_into, aside)
    assert (volume.root / "both").read_text() == "new"
    assert (volume.root / "dir" / "deep" / "file").read_text() == "old"
    assert (volume.root / "dir").stat().st_mode & 0o7777 == 0o1777


def test_what_was_kept_aside_and_forgotten_is_in_no_capture_and_gives_way(volume: Volume, tmp_path: Path) -> None:
    volume.put()
    taken = copy_tree_of(volume.root, tmp_path / "second")
    assert not [entry.path for entry in taken.entries if "aside" in entry.path]
    volume.notes.unlink()
    volume.put()
    rollback(volume.notes)
    assert (volume.root / "both").read_text() == "old"
    assert not (volume.root / ".woodfrog-aside").exists()


def test_steps_through_a_directory_that_became_a_link_lead_nowhere(volume: Volume) -> None:
    volume.put()
    outside = volume.base / "outside"
    shutil.copytree(volume.root / "dir", outside)
    shutil.rmtree(volume.root / "dir")
    (volume.root / "dir").symlink_to(outside)
    before = state(outside)
    rollback(volume.notes)
    assert state(outside) == before


def test_a_tree_that_shrinks_and_vanishes_while_it_is_copied_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "moving"
    root.mkdir()
    (root / "a").write_bytes(b"x" * 5_000_000)
    (root / "b").write_text("gone")
    (root / "c").mkdir()
    real = os.copy_file_range

    def shrinking(*arguments: int) -> int:
        os.truncate(root / "a", 10)
        (root / "b").unlink(missing_ok=True)
        shutil.rmtree(root / "c", ignore_errors=True)
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", shrinking)
    taken = copy_tree_of(root, tmp_path / "spool")
    assert [(entry.path, entry.size_bytes) for entry in taken.entries] == [("a", 10)]
    assert taken.contents["a"].read_bytes() == b"x" * 10


def test_a_snapshots_own_entry_of_the_kept_name_is_refused_or_harmless(volume: Volume) -> None:
    hostile = Tree(
        volume.tree.name,
        (
            Entry("both", "file"),
            Entry(".woodfrog-aside", "file"),
        ),
        None,
        "work",
    )
    with pytest.raises((OSError, FailureError)), closing(Aside(volume.root, volume.notes, None)) as aside:
        apply_tree(hostile, volume.root, volume.read_into, aside)
    rollback(volume.notes)
    assert state(volume.root) == volume.before
