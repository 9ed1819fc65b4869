"""What runs on a node is what its image holds, and what an image holds is written down."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from nodeworker.host import bundle, releases, sbom
from nodeworker.host.paths import Places
from nodeworker.host.sbom import DebianPackage

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A bundle as an image holds it."""
    tree = tmp_path / "image"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/criu").write_text("#!/bin/sh\n")
    (tree / "bin/criu").chmod(0o755)
    (tree / "app/__pycache__").mkdir(parents=True)
    (tree / "app/__pycache__/a.cpython-313.pyc").write_bytes(b"bytecode")
    (tree / "lib").symlink_to("usr/lib")
    (tree / bundle.RELEASE).write_text("0123\n")
    return tree


def content(path: Path) -> None:
    (path / "bin/criu").write_text("#!/bin/sh\nevil\n")


def bytecode(path: Path) -> None:
    (path / "app/__pycache__/a.cpython-313.pyc").write_bytes(b"evilcode")


def one_more(path: Path) -> None:
    (path / "app/sitecustomize.py").write_text("evil")


def link(path: Path) -> None:
    (path / "lib").unlink()
    (path / "lib").symlink_to("/tmp/evil")


def mode(path: Path) -> None:
    (path / "bin/criu").chmod(0o4755)


def half(path: Path) -> None:
    shutil.rmtree(path / "app")


@pytest.mark.parametrize("change", [content, bytecode, one_more, link, mode, half], ids=lambda each: each.__name__)
def test_a_release_that_is_there_and_not_what_the_image_holds_is_laid_anew(
    image: Path, tmp_path: Path, change: Any
) -> None:
    places = Places(tmp_path / "node")
    release = releases.lay(image, places)
    change(release)
    assert releases.difference(image, release) is not None
    assert releases.lay(image, places) == release
    assert releases.difference(image, release) is None


def test_a_release_that_is_as_it_was_laid_stays(image: Path, tmp_path: Path) -> None:
    places = Places(tmp_path / "node")
    before = (releases.lay(image, places) / "bin/criu").stat()
    assert (releases.lay(image, places) / "bin/criu").stat().st_ino == before.st_ino
    assert [path.name for path in places.releases.iterdir()] == ["0123"]


def test_a_release_is_named_by_128_bits(image: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", bundle.digest(image))


def test_the_bill_of_materials_names_every_package_that_was_laid(tmp_path: Path) -> None:
    debs = tmp_path / "debs"
    debs.mkdir()
    for name in ("criu_4.2.1-1_amd64.deb", "libnl-3-200_3.7.0-2_amd64.deb", "libc6_1%3a2.42-1_amd64.deb"):
        (debs / name).write_bytes(name.encode())
    tree = tmp_path / "tree"
    found = sorted(DebianPackage.of_file(path, "sid") for path in debs.iterdir())
    metadata = tree / "packages/pynacl-1.6.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(
        "Metadata-Version: 2.4\nName: PyNaCl\nVersion: 1.6.0\nLicense-Expression: Apache-2.0\n\nText: 1\n"
    )
    (tree / sbom.DEBIAN_PACKAGES).write_text("".join(f"{package.line}\n" for package in found))
    sbom.write(tree, kind="node", release="0123", version="0.1.0")

    document = json.loads((tree / sbom.SBOM).read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert [each["purl"] for each in document["components"]] == [
        "pkg:deb/debian/criu@4.2.1-1?arch=amd64&distro=sid",
        "pkg:deb/debian/libc6@1:2.42-1?arch=amd64&distro=sid",
        "pkg:deb/debian/libnl-3-200@3.7.0-2?arch=amd64&distro=sid",
        "pkg:pypi/pynacl@1.6.0",
    ]
    assert all(len(each["hashes"][0]["content"]) == 64 for each in document["components"][:3])
    assert len({each["bom-ref"] for each in document["components"]}) == 4


def test_the_lock_names_what_the_images_need_by_digest_and_of_one_suite() -> None:
    lock = sbom.read_packages(bundle.LOCK.read_text())
    assert set(bundle._DEBIAN) <= {package.name for package in lock}
    assert len({package.suite for package in lock}) == 1
    assert all(re.fullmatch(r"[0-9a-f]{64}", package.sha256) for package in lock)
    assert "//" not in bundle.LOCK.read_text(), "no mirror of anybody's"


def test_every_wheel_of_an_image_is_pinned_by_hash() -> None:
    for name in ("runtime", "tools"):
        entries = re.split(r"^(?=\w)", (ROOT / f"requirements/{name}.txt").read_text(), flags=re.MULTILINE)[1:]
        assert entries
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
