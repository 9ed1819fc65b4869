"""The number of restores, in a file that a process may hold open while it is replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.criu_images import PLAIN, load

from nodeworker.capture import overlay
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.criu_images.held_files import held_files
from nodeworker.restore import generation

pytestmark = pytest.mark.timeout(20)


@pytest.mark.parametrize(("number", "sized"), [(9, True), (10, False), (11, True)])
def test_who_holds_it_open_comes_back_when_it_has_a_digit_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, sized: bool
) -> None:
    root, images = tmp_path / "root", tmp_path / "images"
    root.mkdir()
    images.mkdir()
    for name, data in load(PLAIN).items():
        (images / name).write_bytes(data)
    held = next(each for each in held_files(ImageFiles(images), {"/"}) if each.size_bytes is not None)
    folder, _, name = held.path.rpartition("/")
    monkeypatch.setattr(overlay, "find_overlay", lambda _rootfs: SimpleNamespace())
    monkeypatch.setattr(generation, "_FOLDER", folder)
    monkeypatch.setattr(generation, "_FILE", name)
    monkeypatch.setattr("nodeworker.capture.trees.apply_tree", lambda *_: None)
    live: Any = SimpleNamespace(rootfs=root)
    generation.put(live, number, images)
    now = {each.path: each.size_bytes is not None for each in held_files(ImageFiles(images), {"/"})}
    assert now[held.path] is sized


def test_images_that_are_not_understood_are_left_to_criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "find_overlay", lambda _rootfs: SimpleNamespace())
    (tmp_path / "root").mkdir()
    live: Any = SimpleNamespace(rootfs=tmp_path / "root")
    generation.put(live, 10, tmp_path)
    assert (tmp_path / "root/.woodfrog/generation").read_text() == "10\n"
