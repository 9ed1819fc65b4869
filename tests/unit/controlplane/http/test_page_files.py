"""The page is what lies in the source: nothing from elsewhere, nothing that runs text."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from controlplane.http.assets import page_files

PAGE = Path(__file__).parents[4] / "controlplane/http/page"
OWN = [path for path in sorted(PAGE.rglob("*")) if path.is_file() and "vendor" not in path.parts]
VENDORED = {
    "LICENSE.uplot": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uplot-1.6.32.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot-1.6.32.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere_and_no_text_becomes_markup(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|javascript:|\son\w+=[\"']",
        text,
    )
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)", text)


def test_whatever_a_file_of_the_page_names_is_there() -> None:
    served = page_files()
    for path in OWN:
        for name in re.findall(r'(?:from|import\()\s*"\./([^"]+)"', path.read_text()):
            assert f"/page/{name}" in served, (path.name, name)
        for name in re.findall(r'(?:href|src): ?"?=?"(/page/[^"]+)"|(?:href|src)="(/page/[^"]+)"', path.read_text()):
            assert "".join(name) in served, (path.name, name)


def test_what_is_vendored_is_what_was_looked_at() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (PAGE / "vendor").iterdir()}
    assert found == VENDORED
