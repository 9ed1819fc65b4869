"""What a worker reports is built in one module, so that it can be read in one place."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

import nodeworker
from woodfrog.protocol.events import ReportedEvent

pytestmark = pytest.mark.timeout(20)

ROOT = Path(nodeworker.__file__).parent
REPORTED = {str(kind.__name__) for kind in get_args(ReportedEvent)}


def built_in(path: Path) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)} & REPORTED


def test_every_report_is_built_in_reports_and_nowhere_else() -> None:
    built = {path.relative_to(ROOT).as_posix(): built_in(path) for path in ROOT.rglob("*.py")}
    assert {path: kinds for path, kinds in built.items() if kinds} == {"reports.py": REPORTED}
