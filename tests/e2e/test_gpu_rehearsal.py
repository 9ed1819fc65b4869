"""The tests for a real GPU work: but for what only NVIDIA's compiler and PyTorch can do, they are played on the stand-in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.criu,
    pytest.mark.long,
    pytest.mark.nats,
    pytest.mark.root,
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).parents[2]
LEFT_OUT = "not seeds and not training and not 2048 and not 8192"


def test_the_tests_for_a_real_gpu_pass_on_the_stand_in() -> None:
    words = [sys.executable, "-m", "pytest", "-p", "support.gpu_rehearsal", "-p", "no:cacheprovider", "-m", "gpu"]
    done = subprocess.run(
        [*words, "-k", LEFT_OUT, "tests/gpu"], cwd=ROOT, capture_output=True, text=True, timeout=580, check=False
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0
    found = re.search(r"(\d+) passed, (\d+) deselected", done.stdout)
    assert found is not None, "nothing is skipped"
    assert int(found[1]) >= 16
