"""The configuration that the chart gives nats-server, by the server itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.chart import Values, containers, one, pods, render
from support.servers import NATS_SERVER

pytestmark = [pytest.mark.timeout(30), pytest.mark.nats]


@pytest.mark.parametrize(
    "values",
    [{}, {"nats": {"nodeTokens": False}}, {"nats": {"replicas": 3, "extraConfig": "max_connections: 9000"}}],
    ids=["tokens", "one password", "three servers"],
)
def test_the_server_takes_its_configuration_and_finds_every_variable(values: Values, tmp_path: Path) -> None:
    manifests = render(values)
    config = tmp_path / "nats"
    config.mkdir()
    for name, text in one(manifests, "ConfigMap", "woodfrog-nats")["data"].items():
        (config / name).write_text(text)
    (pod,) = [pod for name, pod in pods(manifests) if name == "StatefulSet/woodfrog-nats"]
    secret = {"WOODFROG_NATS_CALLOUT_SECRET": "s" * 64}
    for each in pod.get("initContainers", []):
        command = [sys.executable, *each["command"][1:]]
        command[command.index("/etc/nats-callout")] = str(tmp_path / "nats-callout")
        subprocess.run(command, check=True, env={**os.environ, **secret}, timeout=20)
    (server,) = [each for each in containers(pod) if each["name"] == "nats"]
    environment = {"ROUTE_PASSWORD": "p1e5"}
    for variable in server["env"]:
        value = variable.get("value", "p1e5")
        environment[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], value)
    checked = subprocess.run(
        [NATS_SERVER, "-t", "--config", config / "nats.conf"],
        env=environment, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
