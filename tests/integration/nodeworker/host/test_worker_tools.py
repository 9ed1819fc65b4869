"""A worker that cannot do its work says so and ends, instead of failing at the first dump or restore."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)


def started(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "WOODFROG_NODE": "node",
        "WOODFROG_STATE_DIR": str(folder / "state"),
        "WOODFROG_RUN_DIR": str(folder / "run"),
        "WOODFROG_STORE_URL": f"file://{folder}/store",
        "WOODFROG_NATS_URL": "nats://127.0.0.1:9",
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "nodeworker"], check=False, capture_output=True, text=True, timeout=30, env=environment
    )


def test_a_criu_that_is_too_old_to_restore_with_ocis_semantics_is_refused(tmp_path: Path) -> None:
    criu = tmp_path / "criu"
    criu.write_text("#!/bin/sh\necho 'Version: 3.17.1'\n")
    criu.chmod(0o755)
    done = started(tmp_path, WOODFROG_CRIU=str(criu), WOODFROG_RUNC="/bin/true")
    assert done.returncode == 1
    assert "criu-unusable" in done.stderr
    assert "it has version 3.17.1; 3.19 or later is needed" in done.stderr


@pytest.mark.parametrize("tool", ["WOODFROG_CRIU", "WOODFROG_RUNC"])
def test_a_tool_that_is_not_there_is_named(tmp_path: Path, tool: str) -> None:
    done = started(tmp_path, **{"WOODFROG_CRIU": "/bin/true", "WOODFROG_RUNC": "/bin/true", tool: "/nowhere/at-all"})
    assert done.returncode == 1
    assert "tool-missing" in done.stderr
    assert "/nowhere/at-all" in done.stderr
