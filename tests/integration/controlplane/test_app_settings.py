"""Settings of the control plane, and what a wrong one leads to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.settings import Settings
from woodfrog.service.env import InvalidSettingError

URL = {"WOODFROG_DATABASE_URL": "sqlite+aiosqlite:////tmp/log.db"}


def test_only_the_database_must_be_named() -> None:
    settings = Settings.from_environment(URL)
    assert settings == Settings(
        database_url=URL["WOODFROG_DATABASE_URL"],
        nats_url="nats://127.0.0.1:4222",
        cluster="local",
        node_lost_seconds=15.0,
        handover_seconds=120.0,
    )


def test_everything_may_be_set() -> None:
    environment = URL | {
        "WOODFROG_NATS_URL": "nats://broker:4222",
        "WOODFROG_NATS_SEED_FILE": "/etc/woodfrog/control.seed",
        "WOODFROG_NATS_CALLOUT_DIR": "/etc/woodfrog/nats",
        "WOODFROG_NODE_SERVICE_ACCOUNT": "woodfrog-system/woodfrog-node",
        "WOODFROG_INSTANCE": "two",
        "WOODFROG_CLUSTER": "west-1",
        "WOODFROG_NODE_LOST_SECONDS": "30",
        "WOODFROG_HANDOVER_SECONDS": "0",
        "WOODFROG_STREAMS_BYTES": "2GiB",
    }
    assert Settings.from_environment(environment) == Settings(
        database_url=URL["WOODFROG_DATABASE_URL"],
        nats_url="nats://broker:4222",
        nats_seed_file=Path("/etc/woodfrog/control.seed"),
        nats_callout_dir=Path("/etc/woodfrog/nats"),
        node_service_account=("woodfrog-system", "woodfrog-node"),
        instance="two",
        cluster="west-1",
        node_lost_seconds=30.0,
        handover_seconds=0.0,
        streams_bytes=2 << 30,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("WOODFROG_DATABASE_URL", ""),
        ("WOODFROG_CLUSTER", "a/b"),
        ("WOODFROG_INSTANCE", "a/b"),
        ("WOODFROG_STREAMS_BYTES", "much"),
        ("WOODFROG_NODE_LOST_SECONDS", "soon"),
        ("WOODFROG_NODE_LOST_SECONDS", "0"),
        ("WOODFROG_NODE_LOST_SECONDS", "nan"),
        ("WOODFROG_NODE_LOST_SECONDS", "inf"),
        ("WOODFROG_HANDOVER_SECONDS", "-1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidSettingError, match=name):
        Settings.from_environment(URL | {name: text})


def test_a_process_with_a_wrong_setting_says_so_in_one_line_and_ends() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WOODFROG_")}
    done = subprocess.run(
        [sys.executable, "-m", "controlplane"],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "WOODFROG_DATABASE_URL" in json.loads(line)["error"]


@pytest.mark.parametrize("text", ["", "woodfrog-node", "/", "a/", "/b", "a/b/c", "a/B", "system:serviceaccount:a:b"])
def test_who_answers_the_brokers_questions_must_know_the_workers_service_account(text: str) -> None:
    asked = {"WOODFROG_NATS_CALLOUT_DIR": "/etc/woodfrog/nats", "WOODFROG_NODE_SERVICE_ACCOUNT": text}
    with pytest.raises(InvalidSettingError, match="WOODFROG_NODE_SERVICE_ACCOUNT"):
        Settings.from_environment(URL | asked)
