"""CRI-O's drop-in. CRI-O itself is in no package that these tests could use, so only what we write and ask for is held."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from nodeworker.host import crio
from nodeworker.host.paths import Places
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    (tmp_path / "etc/crio").mkdir(parents=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(crio, "_reload", lambda: None)
    return Places(tmp_path)


def answering(places: Places, code: int) -> None:
    program = places.root / "programs/crio"
    program.write_text(f'#!/bin/sh\n[ "$1" = config ] || exit 9\necho no such key >&2\nexit {code}\n')
    program.chmod(0o755)


def test_the_drop_in_names_the_runtime_and_nothing_else(places: Places) -> None:
    assert crio.install(places)
    written = tomllib.loads(crio.drop_in(places).read_text())
    runtime = written["crio"]["runtime"]["runtimes"].pop("cedana")
    assert runtime == {"runtime_path": str(places.runtime), "runtime_type": "oci"}
    assert written == {"crio": {"runtime": {"runtimes": {}}}}


def test_a_second_time_changes_nothing_and_uninstalling_leaves_nothing(places: Places) -> None:
    answering(places, 0)
    assert crio.install(places)
    assert not crio.install(places)
    assert crio.uninstall(places)
    assert not crio.uninstall(places)
    assert list(places.crio.iterdir()) == []


def test_what_was_killed_before_crio_read_it_is_read_the_second_time(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    reloads: list[str] = []
    for step in (crio.install, crio.uninstall):
        monkeypatch.setattr(crio, "_reload", killed)
        with pytest.raises(KeyboardInterrupt):
            step(places)
        monkeypatch.setattr(crio, "_reload", lambda: reloads.append("read"))
        assert not step(places)
    assert reloads == ["read", "read"]


def test_half_a_drop_in_never_lies_where_crio_reads(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        assert list(crio.drop_in(places).parent.iterdir()) == []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nodeworker.host.crio.os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            crio.install(places)
    assert crio.install(places)
    assert [path.name for path in places.crio.iterdir()] == ["crio.conf.d"]


def test_a_drop_in_that_crio_does_not_accept_is_removed_again(places: Places) -> None:
    answering(places, 1)
    with pytest.raises(FailureError, match="crio-config") as problem:
        crio.install(places)
    assert "no such key" in problem.value.failure.detail
    assert not crio.drop_in(places).exists()
