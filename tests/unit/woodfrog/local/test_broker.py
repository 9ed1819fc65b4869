"""Where `woodfrog dev` gets its nats-server from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from woodfrog.local.broker import Broker
from woodfrog.protocol.failures import FailureError


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python beside which there is no server, and a folder that is all of PATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def make_server(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_a_server_beside_python_comes_before_one_in_path(bare: Path, tmp_path: Path) -> None:
    in_path = make_server(bare / "nats-server")
    assert Broker(tmp_path).prepare()[0][0] == in_path
    beside = make_server(tmp_path / "venv/bin/nats-server")
    assert Broker(tmp_path).prepare()[0][0] == beside


def test_without_a_server_it_is_said_how_to_get_one(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="nor in PATH") as refused:
        Broker(tmp_path).prepare()
    assert refused.value.failure.code == "nats-missing"
    assert "woodfrog[local]" in refused.value.failure.advice
