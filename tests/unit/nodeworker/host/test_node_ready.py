"""A node's worker begins only where the self-test succeeds, so that one which registers has proved its node."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from nodeworker.host import __main__ as command
from nodeworker.host import namespaces, self_test
from nodeworker.settings import Settings
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.node_status import SelfTest

pytestmark = pytest.mark.timeout(20)

FAILED = SelfTest(
    datetime(2026, 11, 23, 12, tzinfo=UTC), "dump", Failure("criu-failed", "CRIU gave up", "Try another CRIU.")
)


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


@pytest.mark.parametrize(("words", "code", "failed", "told"), [
    ("run", 1, FAILED, [FAILED]), ("install", 1, FAILED, [FAILED]), ("install", 1, None, []), ("install", 0, None, []),
    ("uninstall", 1, FAILED, []),
])  # fmt: skip
def test_a_self_test_that_failed_is_told_to_the_control_plane_since_no_worker_will(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
    failed: SelfTest | None,
    told: list[SelfTest],
) -> None:
    said: list[SelfTest] = []

    async def tell(settings: Settings, what: SelfTest) -> None:
        assert settings.node == "node-9"
        said.append(what)

    Pod(monkeypatch, tmp_path, code)
    monkeypatch.setenv("WOODFROG_NODE", "node-9")
    monkeypatch.setattr(command.self_test, "last_failure", lambda _root: failed)
    monkeypatch.setattr(command.self_test_report, "tell", tell)
    assert command.main([words]) == code
    assert said == told


def test_how_the_last_self_test_failed_is_known_until_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = self_test.Outcome(1.0, "dump", Failure("criu-failed", "CRIU gave up", "Try another.", "Error (x)"))
    monkeypatch.setattr(self_test, "_fingerprint", lambda *_: "print")
    monkeypatch.setattr(self_test, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(self_test, "run", lambda *_: outcome)
    with pytest.raises(self_test.SelfTestFailedError, match="step 'dump' failed"):
        self_test.ensure(Path("runc"), Path("criu"))
    failed = self_test.last_failure()
    assert self_test.last_failure(Path("/proc/self/root")) == failed
    assert failed == SelfTest(outcome.at, "dump", Failure("criu-failed", "CRIU gave up", "Try another."))
    monkeypatch.setattr(self_test, "run", lambda *_: self_test.Outcome(1.0))
    before = datetime.now(UTC)
    self_test.ensure(Path("runc"), Path("criu"))
    assert self_test.last_failure() is None
    kept = self_test.ensure(Path("runc"), Path("criu"))
    assert (kept.kept, abs(kept.at - before) < timedelta(seconds=10)) == (True, True)
