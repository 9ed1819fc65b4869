"""A container that was root leaves programs behind that give whoever runs them its privileges: a user who is not root gains nothing by them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from support.snapshots import Place

from nodeworker.capture.trees.tree_writer import apply_tree
from nodeworker.domain.gained_files import of_restore
from woodfrog.protocol.manifest import Entry, Manifest, Tree, TreeName

pytestmark = pytest.mark.timeout(60)

NOBODY = (65534, (65534,))
CAPABILITIES = {"security.capability": b"\x01\x00\x00\x02" + b"\xff" * 16}
FILES = [
    Entry("root-shell", "file", mode=0o4755),
    Entry("groups-shell", "file", mode=0o2755, gid=4),
    Entry("capable", "file", mode=0o755, xattrs=CAPABILITIES),
    Entry("again", "file", mode=0o4755, hardlink="root-shell"),
]
HARMLESS = [
    Entry("folder", "directory", mode=0o2775),
    Entry("own", "file", mode=0o6755, uid=65534, gid=65534),
    Entry("lock", "file", mode=0o2644),
    Entry("plain", "file", mode=0o755, xattrs={"system.posix_acl_access": b"x"}),
]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    place = Place(tmp_path)
    place.write("inventory.img", b"x")
    made = place.open(place.put())
    layer = Tree(TreeName.LAYER, (*FILES, *HARMLESS))
    return msgspec.structs.replace(made, trees=(*made.trees, layer))


def test_another_user_is_given_nothing_by_what_root_left_behind(manifest: Manifest) -> None:
    changed, (said,) = of_restore(manifest, NOBODY)
    kept = {entry.path: (entry.mode, entry.xattrs) for entry in changed.trees[-1].entries}
    assert [kept[each.path] for each in FILES] == [(0o755, {}), (0o755, {}), (0o755, {}), (0o755, {})]
    assert [kept[each.path] for each in HARMLESS] == [(each.mode, each.xattrs) for each in HARMLESS]
    assert all(each.path in said for each in FILES)
    assert changed.trees[:-1] == manifest.trees[:-1]


def test_where_nothing_is_to_be_taken_nothing_is_changed(manifest: Manifest) -> None:
    assert of_restore(manifest, None) == (manifest, ())
    honest = msgspec.structs.replace(manifest, trees=(*manifest.trees[:-1], Tree(TreeName.LAYER, tuple(HARMLESS))))
    assert of_restore(honest, NOBODY) == (honest, ())


@pytest.mark.root
def test_the_file_that_is_made_has_no_such_bit(manifest: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    changed, _ = of_restore(manifest, NOBODY)
    files = msgspec.structs.replace(changed.trees[-1], entries=changed.trees[-1].entries[: len(FILES)])
    apply_tree(files, root, lambda entry, file: None)
    assert (root / "root-shell").stat().st_mode & 0o7777 == 0o755
    assert os.listxattr(root / "capable") == []
