"""The configuration that the chart gives nats-server, by the server itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.chart import Values
from support.charted_nats import ChartedNats
from support.servers import NATS_SERVER

pytestmark = [pytest.mark.timeout(30), pytest.mark.nats]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"nats": {"nodeTokens": False}},
        {"nats": {"replicas": 3, "extraConfig": "max_connections: 9000"}},
        {"nats": {"replicas": 3, "tls": {"enabled": False}}},
        {"nats": {"tls": {"allowPlain": "always"}}},
        {"nats": {"tls": {"handshakeFirst": False}}},
    ],
    ids=["tokens", "one password", "three servers", "without tls", "on the way to tls", "a greeting before tls"],
)
def test_the_server_takes_its_configuration_and_finds_every_variable(values: Values, tmp_path: Path) -> None:
    config, environment = ChartedNats(tmp_path, values).configure(0)
    checked = subprocess.run(
        [NATS_SERVER, "-t", "--config", config],
        env=os.environ | environment, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
