"""What ``pip install .`` brings: one wheel with everything that the command needs at run time."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, sys
from pathlib import Path
import controlplane, nodeworker.runtime.install as install
from controlplane.log.admin import migrate

place = Path(sys.argv[1])
for module in (controlplane, install):
    assert Path(module.__file__).is_relative_to(place), module.__file__
asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{place}/log.db"))
runtime = install.write_runtime(
    place / "runtime", run_dir=place, runc=Path("/bin/true"), criu=Path("/bin/criu"), python=Path(sys.executable)
)
assert runtime.read_text().startswith("#!/bin/sh")
"""


def test_the_wheel_migrates_a_database_and_writes_a_runtime_without_the_clone(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "woodfrog = woodfrog.cli.main:main" in archive.read(entry_points).decode()
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert {name for name in tops if not name.endswith(".dist-info")} == {"controlplane", "nodeworker", "woodfrog"}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        cwd="/", env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True, timeout=60,
    )  # fmt: skip
    assert (tmp_path / "log.db").exists()
