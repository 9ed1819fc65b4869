"""A program that is told to prepare for a dump is looked at once more afterwards: what it did then is dumped."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.domain.criu_options import CriuConfig
from nodeworker.domain.hooks import Hook, HookKind
from nodeworker.dump import preflight
from nodeworker.dump.preflight import Preflight
from nodeworker.errors import refusal
from nodeworker.journal import ContainerRecord, ContainerState
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId

pytestmark = pytest.mark.timeout(5)

HOOK = Hook(HookKind.SIGNAL, ("USR1",))
RUNNING = ContainerRecord(
    container_id=ContainerId("one"),
    key=CheckpointKey.checked("local", "default", "train"),
    bundle="/b",
    runc_root="/r",
    facts=ContainerFacts(),
    asked_at=datetime.now(UTC),
    state=ContainerState.RUNNING,
)


class Program:
    """A program that watches a file once it was told to prepare, on a worker that looks at it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, hook: Hook | None) -> None:
        self.did: list[str] = []
        self.watches: dict[tuple[int, int], str] = {}
        self.refused = False
        wishes = SimpleNamespace(
            before_dump=hook, hook_limit_seconds=1.0, freeze_limit_seconds=None, volumes_limit_bytes=1 << 30
        )
        self.live: Any = SimpleNamespace(
            options=wishes, joins_user_namespace=False, idmapped=(), travelling_shm=None, travelling={}, outside={},
            bound=(), configs={}, facts=ContainerFacts(),
        )  # fmt: skip
        config = folder / "containers/one/criu.conf"
        freezer = SimpleNamespace(pids=lambda: (7,))
        state = SimpleNamespace(
            status="running", freezer=freezer, criu_config=config, pid=7, rootfs=folder, cgroup_paths={}
        )
        nothing = SimpleNamespace(
            refuse_unrestorable=lambda **_: None, refuse_nested=lambda *_: None, refuse=lambda *_: None,
            refuse_lost=lambda *_: None, refuse_traced=lambda *_: None, refuse_io_uring=lambda *_: None,
            refuse_unreadable_limits=lambda *_: None, refuse_adopted=lambda *_: None, stopped_pids=lambda *_: (),
            descendants=lambda *_: (7,), held=lambda *_: None, flush=lambda *_: self.did.append("flush"),
            find=self._look, watchers=lambda _: (), read=lambda _folder: self.live,
        )  # fmt: skip
        for name in (
            "bundle",
            "criu",
            "file_locks",
            "handles",
            "privileges",
            "user_namespace",
            "volume_files",
            "watches",
        ):
            monkeypatch.setattr(preflight, name, nothing)
        monkeypatch.setattr(preflight, "find_overlay", lambda _rootfs: None)
        monkeypatch.setattr(preflight, "dump_bytes", lambda _pids, _copied: 0)
        settings: Any = SimpleNamespace(
            container_dir=lambda _id: config.parent, spool=folder / "spool", bounds=SimpleNamespace(), freeze_limit_seconds=60.0
        )  # fmt: skip
        monkeypatch.setattr(preflight, "_measured", lambda *_: 0)
        runc: Any = SimpleNamespace(state=lambda _root, _id: state)
        cuda: Any = SimpleNamespace(plan=lambda *_: None)
        disk: Any = SimpleNamespace(take=lambda *_: SimpleNamespace(close=lambda: None))
        other: Any = SimpleNamespace()
        self.preflight = Preflight(settings, runc, cuda, other, other, disk, CriuConfig("4.2"))
        hooks: Any = self.preflight
        hooks._hooks = SimpleNamespace(before_dump=self._prepare)

    def _look(self, *_: object) -> dict[tuple[int, int], str]:
        self.did.append("look")
        if self.refused:
            raise refusal("watch-not-found", "it watches what is gone", "")
        return dict(self.watches)

    def _prepare(self, *_: object) -> tuple[str, ...]:
        self.did.append("prepare")
        self.watches[5, 6] = "/srv/w"
        return ("it was slow",)


def test_what_a_program_did_to_prepare_is_in_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(tmp_path, monkeypatch, HOOK)
    plan = program.preflight.look(RUNNING)
    assert (plan.watches, plan.noticed) == ({(5, 6): "/srv/w"}, ("it was slow",))
    assert program.did == ["look", "prepare", "look", "flush"]


def test_nobody_is_told_to_prepare_for_what_is_refused_or_only_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(tmp_path, monkeypatch, HOOK)
    program.preflight.look(RUNNING, only=True)
    program.refused = True
    with pytest.raises(FailureError):
        program.preflight.look(RUNNING)
    assert program.did == ["look", "look"]


def test_without_a_hook_one_look_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(tmp_path, monkeypatch, None)
    assert program.preflight.look(RUNNING).noticed == ()
    assert program.did == ["look", "flush"]
