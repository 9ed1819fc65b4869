"""Running until told to stop: the same way out of every process for SIGTERM and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine


async def until_signalled(work: Coroutine[None, None, None]) -> None:
    """Run ``work`` until it ends or SIGTERM or SIGINT arrives, then cancel it and wait until it has cleaned up.

    More signals change nothing: a second Ctrl-C must not cut the clean-up short, each step of which has a bound of its own.
    An exception of ``work`` is this function's exception: the death of the work is the death of the process.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
