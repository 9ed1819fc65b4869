"""A node is labelled as ready while its self-test succeeds, and only then."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from nodeworker.host import __main__ as command
from nodeworker.host import label, namespaces

pytestmark = pytest.mark.timeout(20)


class BecameWorkerError(Exception):
    """The command went on to be the worker."""


class Pod:
    """What a privileged pod does to its node, with the node's own part played: it ends with an exit code."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
        self.labels: list[bool] = []
        self.ran = folder / "ran"
        patch.setenv("WOODFROG_KUBERNETES", "on")
        patch.setattr(namespaces, "outside", lambda: True)
        patch.setattr(command.os, "geteuid", lambda: 0)
        patch.setattr(label, "set_ready", self._set_ready)

        def on_host(_places: object, words: list[str]) -> NoReturn:
            self.ran.write_text(" ".join(words))
            os._exit(code)

        def become_worker(_places: object) -> NoReturn:
            raise BecameWorkerError

        patch.setattr(command, "_on_host", on_host)
        patch.setattr(command, "_become_worker", become_worker)

    def _set_ready(self, _environment: Mapping[str, str], *, ready: bool) -> None:
        self.labels.append(ready)


@pytest.mark.parametrize(("code", "ready"), [(0, True), (1, False)])
def test_an_installation_that_ends_with_a_failed_self_test_takes_the_label_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ready: bool
) -> None:
    pod = Pod(monkeypatch, tmp_path, code)
    assert command.main(["install"]) == code
    assert pod.labels == [ready]
    assert pod.ran.read_text() == "install --here"


def test_a_worker_is_not_begun_on_a_node_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(monkeypatch, tmp_path, 1)
    assert command.main(["run"]) == 1
    assert pod.labels == [False]
    assert pod.ran.read_text() == "self-test --here"


def test_a_worker_on_a_node_that_passes_is_begun_and_the_label_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(monkeypatch, tmp_path, 0)
    with pytest.raises(BecameWorkerError):
        command.main(["run"])
    assert pod.labels == [True]
