"""A node's worker begins only where the self-test succeeds, so that one which registers has proved its node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from nodeworker.host import __main__ as command
from nodeworker.host import namespaces

pytestmark = pytest.mark.timeout(20)


class BecameWorkerError(Exception):
    """The command went on to be the worker."""


class Pod:
    """What a privileged pod does to its node, with the node's own part played: it ends with an exit code."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
        self.ran = folder / "ran"
        patch.setattr(namespaces, "outside", lambda: True)
        patch.setattr(command.os, "geteuid", lambda: 0)

        def on_host(_places: object, words: list[str]) -> NoReturn:
            self.ran.write_text(" ".join(words))
            os._exit(code)

        def become_worker(_places: object) -> NoReturn:
            raise BecameWorkerError

        patch.setattr(command, "_on_host", on_host)
        patch.setattr(command, "_become_worker", become_worker)


@pytest.mark.parametrize("code", [0, 1])
def test_an_installation_ends_as_its_self_test_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    pod = Pod(monkeypatch, tmp_path, code)
    assert command.main(["install"]) == code
    assert pod.ran.read_text() == "install --here"


def test_a_worker_is_not_begun_on_a_node_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(monkeypatch, tmp_path, 1)
    assert command.main(["run"]) == 1
    assert pod.ran.read_text() == "self-test --here"


def test_a_worker_on_a_node_that_passes_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pod(monkeypatch, tmp_path, 0)
    with pytest.raises(BecameWorkerError):
        command.main(["run"])
