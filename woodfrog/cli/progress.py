"""How far work has come that takes long, said on standard error every few seconds while it goes on; short work says nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from woodfrog.protocol import amounts

if TYPE_CHECKING:
    from controlplane.log.progress import Progress

_FIRST_SECONDS: Final = 2.0
_NEXT_SECONDS: Final = 5.0


def said(what: str, done_bytes: Callable[[], int], total_bytes: int) -> AbstractContextManager[None]:
    """Say it of what the block does; ``done_bytes`` is asked from another thread."""
    return _said(lambda seconds: line(what, done_bytes(), total_bytes, seconds))


def of_events(what: str, progress: Progress) -> AbstractContextManager[None]:
    """Say it of what the block does with the events of the log."""
    return _said(lambda seconds: line_of_events(what, progress, seconds))


@contextmanager
def _said(line_now: Callable[[float], str]) -> Iterator[None]:
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = _FIRST_SECONDS
        while not over.wait(pause):
            sys.stderr.write(f"woodfrog: {line_now(time.monotonic() - began)}\n")
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
    return f"{what}: {amounts.size(done_bytes)} of {amounts.size(total_bytes)} ({_share(share, seconds)})"


def line_of_events(what: str, progress: Progress, seconds: float) -> str:
    """Write the same of events; what is looked at twice is half done in between."""
    if not progress.total:
        return f"{what}: not begun yet"
    looked = min(progress.done, progress.total)  # the log may have grown meanwhile
    done, total = looked // progress.passes, progress.total // progress.passes
    return f"{what}: {done} of {total} events ({_share(looked / progress.total, seconds)})"


def _share(share: float, seconds: float) -> str:
    left = f", about {seconds * (1 / share - 1):.0f} s left" if 0 < share < 1 else ""
    return f"{share:.0%}{left}"
