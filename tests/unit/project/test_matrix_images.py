"""What a cluster runs of the matrix is packed as images that share what their programs share."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from matrix.images import image_of, pack
from matrix.program import Pip, Program

pytestmark = pytest.mark.timeout(20)


def _program(name: str, packages: Pip | None) -> Program:
    return Program(name, name, version="true", command="true", check="true", packages=packages)


def test_images_share_the_suites_layer_and_have_only_their_own_packages(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for file in ("usr/bin/sh", "opt/one/a.py", "opt/two/b.py", "var/lib/apt/lists/index", "proc/1/stat"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    programs = [_program("plain", None), _program("first", Pip("one", ())), _program("again", Pip("one", ()))]
    archive = pack(programs, root, tmp_path / "images.tar")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["images.tar"]
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
        members = {name: _names(tmp_path, data) for name, data in contents.items() if name.endswith(".tar")}
    images = {image["RepoTags"][0]: image for image in json.loads(contents["manifest.json"])}
    assert set(images) == {image_of(program) for program in programs}
    plain, first = (images[image_of(program)] for program in programs[:2])
    assert set(plain["Layers"]) < set(first["Layers"])
    found = {name for layer in first["Layers"] for name in members[layer]}
    assert {"./usr/bin/sh", "opt/one/a.py", "workloads/lib.sh"} <= found
    assert not {
        name for names in members.values() for name in names if "two" in name or "index" in name or "stat" in name
    }
    for image in images.values():
        digests = json.loads(contents[image["Config"]])["rootfs"]["diff_ids"]
        assert digests == [f"sha256:{hashlib.sha256(contents[layer]).hexdigest()}" for layer in image["Layers"]]


def _names(folder: Path, layer: bytes) -> list[str]:
    file = folder / "layer"
    file.write_bytes(layer)
    with tarfile.open(file) as tar:
        return tar.getnames()
