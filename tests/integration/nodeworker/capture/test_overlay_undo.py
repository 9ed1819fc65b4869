"""Finding a container's overlay and undoing what was applied to it, on real mounts."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture.overlay import find_overlay, undo
from nodeworker.capture.trees import apply_tree
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import Entry, Tree, TreeName

pytestmark = pytest.mark.root

libc = ctypes.CDLL(None, use_errno=True)


def mount_overlay(target: Path, data: str, flags: int = 0) -> None:
    if libc.mount(b"overlay", os.fsencode(target), b"overlay", flags, os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), data)


def slashed(path: Path) -> str:
    return "".join(f"\\{letter}" if letter in "\\:," else letter for letter in str(path))


class Mounts:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.points: list[Path] = []

    def make(self, name: str = "plain", *, layers: int = 2, extra: str = "", flags: int = 0) -> Path:
        home = self.base / name
        lower = [home / f"lower{number}" for number in range(layers)]
        for each in (*lower, home / "upper", home / "work", home / "merged"):
            each.mkdir(parents=True)
        (lower[-1] / "etc").mkdir()
        (lower[-1] / "etc/base").write_text("from the image\n")
        (lower[0] / "gone").write_text("to be deleted\n")
        data = f"lowerdir={':'.join(map(slashed, lower))},upperdir={slashed(home / 'upper')},workdir={slashed(home / 'work')}"
        mount_overlay(home / "merged", data + extra, flags)
        self.points.append(home / "merged")
        return home

    def close(self) -> None:
        for point in self.points:
            subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    made.close()


def mountinfo_of(point: Path) -> str:
    text = str(point).replace("\\", "\\134").replace(" ", "\\040")
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {text} " in line)
    return line.split(" ", 3)[3].split(" ", 1)[1]


def deface(merged: Path) -> None:
    layer = Tree(
        TreeName.LAYER,
        (
            Entry("etc", "directory", mode=0o700, opaque=True),
            Entry("etc/new", "file", mode=0o644),
            Entry("gone", "whiteout"),
            Entry("link", "symlink", target="etc"),
        ),
    )
    apply_tree(layer, merged, lambda entry, descriptor: None)


def test_an_overlay_is_found_with_its_directories(mounts: Mounts) -> None:
    home = mounts.make()
    overlay = find_overlay(home / "merged")
    assert overlay is not None
    assert overlay.lower == (home / "lower0", home / "lower1")
    assert (overlay.upper, overlay.work, overlay.mountpoint) == (home / "upper", home / "work", home / "merged")


def test_a_directory_that_is_no_mount_and_a_mount_that_is_no_overlay_are_not_found(tmp_path: Path) -> None:
    assert find_overlay(tmp_path) is None
    assert find_overlay(Path("/proc")) is None


def test_a_read_only_overlay_without_an_upper_directory_is_not_found(mounts: Mounts) -> None:
    home = mounts.make()
    view = mounts.base / "view"
    view.mkdir()
    mount_overlay(view, f"lowerdir={home / 'lower0'}:{home / 'lower1'}")
    mounts.points.append(view)
    assert find_overlay(view) is None


@pytest.mark.parametrize(
    "name", ["plain", "with space", "co:lon", "com,ma", "back\\slash", "eq=ual", "tab\tand\nline", "\\134"]
)
def test_undo_leaves_the_container_what_its_image_has(mounts: Mounts, name: str) -> None:
    home = mounts.make(name)
    merged = home / "merged"
    deface(merged)
    assert not (merged / "gone").exists()
    assert sorted(path.name for path in (merged / "etc").iterdir()) == ["new"]

    overlay = find_overlay(merged)
    assert overlay is not None
    undo(overlay)

    assert list((home / "upper").iterdir()) == []
    assert sorted(path.name for path in merged.iterdir()) == ["etc", "gone"]
    assert (merged / "etc/base").read_text() == "from the image\n"
    assert find_overlay(merged) == overlay
    (merged / "etc/base").write_text("writable\n")


def test_undo_mounts_again_with_the_same_options_and_flags(mounts: Mounts) -> None:
    home = mounts.make(extra=",index=on,xino=off", flags=2 | 4 | 1024)
    before = mountinfo_of(home / "merged")
    deface(home / "merged")
    overlay = find_overlay(home / "merged")
    assert overlay is not None
    undo(overlay)
    assert mountinfo_of(home / "merged") == before
    assert {"nosuid", "nodev", "noatime"} <= set(overlay.options)


def test_undo_copes_with_more_layers_than_absolute_paths_fit_a_page(mounts: Mounts, tmp_path: Path) -> None:
    """containerd mounts such a list from the layers' common directory, with relative paths."""
    snapshots = tmp_path / ("snapshots" + "x" * 80)
    layers = [snapshots / str(number) / "fs" for number in range(60)]
    for each in (*layers, snapshots / "99/fs", snapshots / "99/work", tmp_path / "merged"):
        each.mkdir(parents=True)
    (layers[40] / "deep").write_text("deep\n")
    relative = ":".join(str(path.relative_to(snapshots)) for path in layers)
    data = f"lowerdir={relative},upperdir={snapshots / '99/fs'},workdir={snapshots / '99/work'}"
    before = Path.cwd()
    os.chdir(snapshots)
    try:
        mount_overlay(tmp_path / "merged", data)
    finally:
        os.chdir(before)
    mounts.points.append(tmp_path / "merged")

    overlay = find_overlay(tmp_path / "merged")
    assert overlay is not None
    assert overlay.lower == tuple(layers)
    (tmp_path / "merged/deep").write_text("changed\n")
    undo(overlay)
    assert (tmp_path / "merged/deep").read_text() == "deep\n"
    assert Path.cwd() == before


def test_a_busy_root_filesystem_is_left_as_it_is_and_said_to_be_busy(mounts: Mounts) -> None:
    home = mounts.make()
    deface(home / "merged")
    overlay = find_overlay(home / "merged")
    assert overlay is not None
    with (home / "merged/etc/new").open(), pytest.raises(FailureError) as caught:
        undo(overlay)
    assert caught.value.failure.code == "rootfs-busy"
    assert (home / "merged/etc/new").exists()
