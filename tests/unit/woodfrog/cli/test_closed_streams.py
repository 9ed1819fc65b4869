"""A command line whose standard streams were closed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(20)

PROGRAM = """
import os, sys
from woodfrog.cli import closed_streams
closed_streams.reopen()
print("said", flush=True)
sys.stderr.write("said")
sys.stdin.read()
file = os.open("/dev/null", os.O_RDONLY)
os._exit(0 if file > 2 else 1)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_leads_nowhere_and_its_number_is_not_taken(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
