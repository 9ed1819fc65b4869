"""CRIU's images in a directory: nothing is read that is no image, and what is replaced stays whole under its other names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodeworker.capture.criu import image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.criu_images import MalformedImageError


def test_images_are_read_by_their_names_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "core-1.img").write_bytes(b"core")
    (tmp_path / "pstree.img").write_bytes(b"tree")
    (tmp_path / "descriptors.json").write_bytes(b"{}")
    (tmp_path / "secret").write_bytes(b"secret")
    images = ImageFiles(tmp_path)
    assert images["core-1.img"] == b"core"
    assert sorted(images) == ["core-1.img", "pstree.img"]
    assert len(images) == 2
    for name in ("core-2.img", "secret", "../secret", "x/../core-1.img", "descriptors.json", ""):
        assert name not in images


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "large"])
def test_an_image_that_is_no_plain_file_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "core-1.img"
    monkeypatch.setattr(image_files, "_LONGEST_BYTES", 4)
    (tmp_path / "other").write_bytes(b"12")
    if kind == "link":
        path.symlink_to("other")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"12345")
    with pytest.raises((OSError, MalformedImageError)):
        ImageFiles(tmp_path)["core-1.img"]


def test_a_replaced_image_is_still_the_old_one_under_its_other_name(tmp_path: Path) -> None:
    held, linked = tmp_path / "copy", tmp_path / "images"
    held.mkdir()
    linked.mkdir()
    (held / "core-1.img").write_bytes(b"old")
    (linked / "core-1.img").hardlink_to(held / "core-1.img")
    image_files.replace(linked, {"core-1.img": b"new"})
    assert (held / "core-1.img").read_bytes() == b"old"
    assert (linked / "core-1.img").read_bytes() == b"new"
    assert [path.name for path in linked.iterdir()] == ["core-1.img"]
