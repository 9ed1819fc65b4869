"""However many files a container makes, and however large they look: counting stops at a limit, and the walk keeps no list."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeworker.capture.bounds import Bounds, Tally, measure
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.trees import copy_tree
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import TreeName

MIB = 1 << 20


def filled(folder: Path, count: int, *, each: int = 1000, name: str = "{:06d}") -> Path:
    for number in range(count):
        if number % each == 0:
            (folder / str(number // each)).mkdir(parents=True)
        os.close(os.open(folder / str(number // each) / name.format(number), os.O_CREAT | os.O_WRONLY))
    return folder


def refused(bounds: Bounds, root: Path, spool: Path) -> set[str]:
    codes = set()
    for take in (
        lambda: measure(root, Tally(bounds)),
        lambda: copy_tree(TreeName.VOLUME, root, spool, shared=True, volume="v", tally=Tally(bounds)),
    ):
        with pytest.raises(FailureError) as caught:
            take()
        codes.add(caught.value.failure.code)
    return codes


def test_counting_and_copying_stop_at_the_same_number_of_files(tmp_path: Path) -> None:
    root = filled(tmp_path / "many", 999)
    tally = Tally(Bounds(files=1000))
    measure(root, tally)
    assert tally.files == 1000
    assert refused(Bounds(files=999), root, tmp_path / "spool") == {"too-many-files"}


def test_one_directory_is_not_listed_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "many", 2000, each=2000)
    listed: list[bytes] = []
    real = os.scandir

    @contextmanager
    def counted(path: bytes) -> Iterator[Iterator[os.DirEntry[bytes]]]:
        with real(path) as found:
            yield (listed.append(each.name) or each for each in found)  # type: ignore[func-returns-value]

    monkeypatch.setattr(os, "scandir", counted)
    assert refused(Bounds(files=100), tmp_path / "many", tmp_path / "spool") == {"too-many-files"}
    assert len(listed) < 2 * 110


def test_a_file_of_nothing_but_a_hole_counts_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse/a").touch()
    os.truncate(tmp_path / "sparse/a", 1 << 40)
    tally = Tally(Bounds())
    assert measure(tmp_path / "sparse", tally) < MIB
    assert tally.apparent_bytes == 1 << 40
    assert refused(Bounds(apparent_bytes=(1 << 40) - 1), tmp_path / "sparse", tmp_path / "spool") == {"files-too-large"}


def test_nesting_is_refused_before_anything_is_frozen(tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for _ in range(510):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(before)
    assert refused(Bounds(), tmp_path / "tree", tmp_path / "spool") == {"tree-too-deep"}


def test_a_path_that_no_manifest_may_hold_is_refused_before_anything_is_frozen(tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for _ in range(20):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
        Path("e" * 75).mkdir()
        measure(tmp_path / "tree", Tally(Bounds()))
        Path("e" * 76).mkdir()
        with pytest.raises(FailureError) as problem:
            measure(tmp_path / "tree", Tally(Bounds()))
    finally:
        os.chdir(before)
    assert problem.value.failure.code == "capture-unfit"
    assert "A path of 4096 bytes" in problem.value.failure.cause


@pytest.mark.timeout(180)
def test_the_walk_over_many_files_takes_little_memory(tmp_path: Path) -> None:
    root = filled(tmp_path / "many", 50_000)
    tracemalloc.start()
    try:
        tree = copy_tree(TreeName.VOLUME, root, tmp_path / "spool", shared=True, volume="v")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tree.entries) == 50_050
    assert most < 16 * MIB


def test_what_was_listed_is_read_back_by_the_next_worker(tmp_path: Path) -> None:
    root = filled(tmp_path / "many", 10)
    (root / "0/000003").write_bytes(b"three")
    os.link(root / "0/000003", root / "0/another")
    spool = Spool(tmp_path / "spool")
    spool.make()
    written = spool.write_list(spool.copy_files(None, None, {"v": root}, Bounds()))
    read = spool.read_list()
    assert [tuple(tree.entries) for tree in read] == [tuple(tree.entries) for tree in written]
    (_, volume) = read
    assert {path: at.read_bytes() for path, at in volume.contents.items()} == {"0/000003": b"three"}
    (volume.contents["0/000003"].parent.parent / "volume-0.entries").unlink()
    with pytest.raises(FailureError, match="spool-lost"):
        spool.read_list()


def test_a_list_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "trees.json").write_text(
        '[{"name":"volume","entries":[{"path":"a","kind":"file","size_bytes":1}],"contents":{"a":"volume-0/0"},'
        '"warnings":["w"],"root":null,"volume":"v"}]'
    )
    (tree,) = spool.read_list()
    assert [entry.path for entry in tree.entries] == ["a"]
    assert dict(tree.contents) == {"a": tmp_path / "volume-0/0"}
    assert (tree.warnings, tree.volume) == (("w",), "v")


def test_copying_ends_when_the_container_has_stood_still_for_too_long(tmp_path: Path) -> None:
    root = filled(tmp_path / "many", 3)
    assert refused(Bounds(deadline=time.monotonic() - 1), root, tmp_path / "spool") == {"freeze-limit"}
    copy_tree(TreeName.VOLUME, root, tmp_path / "in time", tally=Tally(Bounds(deadline=time.monotonic() + 3600)))
