"""``woodfrog get nodes`` shows each node's GPUs, and nodes without any, or of an older log, just as well."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from woodfrog.cli import get_commands, main
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
FROM_AN_OLDER_CONTROL_PLANE = {"node": "old-1", "status": "lost"}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    known = [WITH, WITHOUT, FROM_AN_OLDER_CONTROL_PLANE]

    def view(_reach: Reach, name: View, _key: object, *, limit: int) -> list[dict[str, Any]]:
        assert name == "nodes"
        return known

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
