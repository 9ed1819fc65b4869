"""Finding a mirror and a CRIU, without the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.host import criu_bundle
from nodeworker.host.criu_bundle import Source, find_criu, sources
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)

DEB822 = """# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no
"""


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"etc/os-release": 'NAME=x\nVERSION_CODENAME="bookworm"\n', **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_mirror_of_the_own_release_is_read_from_a_deb822_file(tmp_path: Path) -> None:
    root = machine(tmp_path, {"etc/apt/sources.list.d/debian.sources": DEB822})
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert sources(root) == [Source("http://mirror.example/debian", keyring)]


def test_the_mirror_is_read_from_one_line_entries_and_named_once(tmp_path: Path) -> None:
    text = """
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib
deb http://other.example/cloud cloud-sdk-bookworm main
deb-src http://src.example/debian bookworm main
deb http://two.example/debian bookworm main  # mine
deb http://two.example/debian bookworm main
"""
    found = sources(machine(tmp_path, {"etc/apt/sources.list": text}))
    assert found == [Source("http://one.example/debian", "/k.gpg"), Source("http://two.example/debian", None)]


def test_a_machine_without_debian_packages_gets_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(FailureError) as problem:
        sources(machine(tmp_path, {}))
    assert problem.value.failure.code == "mirror-unknown"


def test_a_criu_that_the_setting_names_goes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = executable(tmp_path / "mine/criu", "exit 0")
    executable(tmp_path / "prefix/bin/criu", "exit 0")
    monkeypatch.setenv("WOODFROG_CRIU", str(named))
    assert find_criu(tmp_path / "prefix") == named
    monkeypatch.delenv("WOODFROG_CRIU")
    assert find_criu(tmp_path / "prefix") == tmp_path / "prefix/bin/criu"


def test_no_criu_is_said_with_the_way_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WOODFROG_CRIU", raising=False)
    executable(tmp_path / "path/criu", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(FailureError) as problem:
        find_criu(tmp_path / "prefix")
    assert problem.value.failure.code == "criu-missing"
    assert "criu_bundle" in problem.value.failure.advice


def test_who_is_not_root_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(criu_bundle.os, "geteuid", lambda: 1000)
    assert criu_bundle.main(["--prefix", str(tmp_path / "deep/prefix")]) == 1
    assert "root" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_cannot_be_reached_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(criu_bundle.os, "geteuid", lambda: 0)
    monkeypatch.setattr(criu_bundle, "sources", lambda: [Source("http://mirror.example/debian", None)])
    for tool in ("criu", "apt-get"):
        executable(tmp_path / "path" / tool, "echo 'Could not resolve' >&2; exit 100")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert criu_bundle.main(["--prefix", str(tmp_path / "deep/prefix")]) == 1
    said = capsys.readouterr().err
    assert "mirror-unreachable" in said
    assert "Could not resolve" in said
    assert not (tmp_path / "deep").exists()
