"""What makes an async test fail that blocks its loop, and what does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from blockbuster import BlockingError

import controlplane

OURS = Path(controlplane.__file__).parent
SOMEBODYS = Path("/usr/lib/python3")
WAITS = ["time.sleep(0)", "pathlib.Path('/etc/hostname').read_text()", "os.stat('/')"]


def coroutine(folder: Path, statement: str) -> Callable[[], Awaitable[None]]:
    """A coroutine as if it were defined in a file of a folder."""
    names: dict[str, Callable[[], Awaitable[None]]] = {}
    text = f"import os, pathlib, time\nasync def wait():\n    {statement}\n"
    exec(compile(text, folder / "made_up.py", "exec"), names)
    return names["wait"]


@pytest.mark.parametrize("statement", WAITS)
async def test_a_coroutine_of_ours_waits_for_no_clock_and_no_disk(statement: str) -> None:
    with pytest.raises(BlockingError):
        await coroutine(OURS, statement)()


@pytest.mark.parametrize("statement", WAITS)
async def test_somebody_elses_may_and_so_may_a_test_and_a_thread(statement: str, tmp_path: Path) -> None:
    await coroutine(SOMEBODYS, statement)()
    await asyncio.to_thread(time.sleep, 0)
    (tmp_path / "file").write_text("text")
