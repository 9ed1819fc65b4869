"""The API keeps to its own OpenAPI document, whatever is asked of it: schemathesis asks for some seconds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.api import ACTING

pytestmark = pytest.mark.timeout(180)

SECONDS = 5
ROOT = Path(__file__).parents[2]


async def test_whatever_is_asked_the_answer_is_what_the_document_says(shown: Any, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{shown.api.url}/api/v1/openapi.json",
        "--header", f"Authorization: Bearer {ACTING}", "--phases", "fuzzing", "--mode", "all", "--seed", "1",
        "--max-time", str(SECONDS), "--exclude-path", "/api/v1/log/tail", "--no-color",
        "--exclude-checks", "unsupported_method,ignored_auth",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'build/page'}:{Path(__file__).parent}",
            "SCHEMATHESIS_HOOKS": "rules_between_parameters",
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
