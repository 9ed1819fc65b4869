"""How far work has come that takes long, said on standard error every few seconds while it goes on; short work says nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from woodfrog.protocol import amounts

_FIRST_SECONDS: Final = 2.0
_NEXT_SECONDS: Final = 5.0


@contextmanager
def said(what: str, done_bytes: Callable[[], int], total_bytes: int) -> Iterator[None]:
    """Say it of what the block does; ``done_bytes`` is asked from another thread."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = _FIRST_SECONDS
        while not over.wait(pause):
            sys.stderr.write(f"woodfrog: {line(what, done_bytes(), total_bytes, time.monotonic() - began)}\n")
            sys.stderr.flush()
            pause = _NEXT_SECONDS

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def line(what: str, done_bytes: int, total_bytes: int, seconds: float) -> str:
    """Write how far it is, and how long the rest takes at this pace."""
    share = done_bytes / total_bytes if total_bytes else 1.0
    left = f", about {seconds * (1 / share - 1):.0f} s left" if 0 < share < 1 else ""
    return f"{what}: {amounts.size(done_bytes)} of {amounts.size(total_bytes)} ({share:.0%}{left})"
