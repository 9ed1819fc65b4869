"""What ``woodfrog dev`` says of a part that has ended: why, if its log says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from woodfrog.local import dev

pytestmark = pytest.mark.timeout(20)

ERROR = '{"event": "the node worker ends", "level": "error", "code": "criu-unusable", "error": "it has version 3.17.1"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (ERROR, "worker ended with 3: it has version 3.17.1; "),
        ('{"event": "the node worker died", "level": "error"}', "worker ended with 3: the node worker died; "),
        ('{"event": "all is well", "level": "info"}', "worker ended with 3; "),
        ("[1] [INF] Server is ready", "worker ended with 3; "),
        ("", "worker ended with 3; "),
    ],
)
async def test_a_part_that_ends_is_said_to_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, said: str
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(dev, "_say", heard.put_nowait)
    script = f"echo older; {f'echo {line!r}; ' if line else ''}exit 3"
    part = dev.Part("worker", ["sh", "-c", script], {}, tmp_path / "log", lambda _name, _pid: None)
    keeping = asyncio.create_task(part.keep())
    assert (await heard.get()).startswith(said)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
