"""``woodfrog get nodes`` shows each node's GPUs, and nodes without any, or of an older log, just as well."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from woodfrog.cli import get_commands, main, watch
from woodfrog.cli.context import Reach
from woodfrog.protocol.requests import View

pytestmark = pytest.mark.timeout(10)

GPU = {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 << 30}
WITH = {
    "node": "gpu-1",
    "status": "ready",
    "gpu_count": 2,
    "gpu_models": "NVIDIA H100 80GB HBM3",
    "gpu_memory_bytes": 160 << 30,
    "gpu_driver": "580.65.06",
    "gpus": [GPU, GPU | {"uuid": "GPU-2"}],
}
WITHOUT = {"node": "cpu-1", "status": "ready", "gpu_count": 0, "gpu_models": None, "gpus": None}
NOW = {
    "gpu-1": {
        "heard_at": "2026-11-23T21:00:00Z",
        "worker_id": "w",
        "status": {
            "self_test": {"at": "2026-11-23T20:00:00Z"},
            "disk": {"total_bytes": 100 << 30, "free_bytes": 3 << 30, "waiting_captures": 2, "waiting_bytes": 1 << 30},
            "work": [{"kind": "dump", "key": {"namespace": "team", "id": "train"}, "since": "2026-11-23T20:59:00Z"}],
            "more_work": 3,
        },
    },
    "cpu-1": {
        "heard_at": "2026-11-23T21:00:00Z",
        "worker_id": "v",
        "status": {
            "self_test": {
                "at": "2026-11-23T20:00:00Z",
                "step": "restore",
                "failure": {"code": "criu-failed", "cause": "CRIU gave up", "advice": "Try another CRIU."},
            }
        },
    },
}
FROM_AN_OLDER_CONTROL_PLANE = {"node": "old-1", "status": "lost"}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    known = [WITH, WITHOUT, FROM_AN_OLDER_CONTROL_PLANE]

    def view(_reach: Reach, name: View, *, limit: int, statuses: bool) -> list[dict[str, Any]]:
        assert name == "nodes"
        return [row | {"now": NOW.get(row["node"])} for row in known] if statuses else known

    monkeypatch.setattr(get_commands, "reach_of", lambda _: Reach("nats://nowhere", ""))
    monkeypatch.setattr(get_commands.client, "view", view)
    return known


def test_a_table_has_a_line_for_each_node_with_its_gpus() -> None:
    heading, gpu, cpu, old = CliRunner().invoke(main.app, ["get", "nodes"]).stdout.splitlines()
    assert heading.split("   ")[-1] == "GPU DRIVER"
    assert [word.strip() for word in gpu.split("   ") if word.strip()][-4:] == [
        "2",
        "NVIDIA H100 80GB HBM3",
        "160.0 GiB",
        "580.65.06",
    ]
    assert cpu.split()[-4:] == ["0", "-", "-", "-"]
    assert old.split()[-4:] == ["-", "-", "-", "-"]


def test_json_has_every_gpu() -> None:
    found = json.loads(CliRunner().invoke(main.app, ["get", "nodes", "-o", "json"]).stdout)
    assert [gpu["uuid"] for gpu in found[0]["gpus"]] == ["GPU-1", "GPU-2"]


def test_the_wide_table_says_how_the_self_test_ended_what_is_on_the_disk_and_what_the_worker_does() -> None:
    heading, gpu, cpu, old = CliRunner().invoke(main.app, ["get", "nodes", "-o", "wide"]).stdout.splitlines()
    assert [word.strip() for word in heading.split("   ") if word.strip()][-3:] == ["SELF TEST", "DISK", "WORK"]
    assert "passed 2026-11-23 20:00:00" in gpu
    assert "3.0 GiB free of 100.0 GiB, 2 captures wait for the store" in gpu
    assert gpu.endswith("dump team/train, and 3 more")
    assert "at the step restore: CRIU gave up (criu-failed). Try another CRIU." in cpu
    assert old.split()[-3:] == ["-", "-", "-"]


def test_json_has_what_the_workers_said_and_a_watched_list_does_not_for_it_never_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = json.loads(CliRunner().invoke(main.app, ["get", "nodes", "-o", "json"]).stdout)
    assert found[0]["now"] == NOW["gpu-1"]
    monkeypatch.setattr(watch, "_is_deaf", lambda: True)
    watched = CliRunner().invoke(main.app, ["get", "nodes", "-o", "json", "--watch"]).stdout
    assert "now" not in json.loads(watched.splitlines()[0])
