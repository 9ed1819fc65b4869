"""Threads that the process does not wait for when it ends.

``asyncio.to_thread`` uses threads that Python joins at exit, so a worker told to stop would first finish an upload of many
gigabytes. Work that the next life takes up again, or that nobody needs any more, runs here instead.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_daemon_thread(work: Callable[[], _Result]) -> _Result:
    """Run ``work`` in a thread of its own and return its result, or raise what it raised.

    A caller that is cancelled leaves the thread behind, running.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def succeed(result: _Result) -> None:
        if not done.done():
            done.set_result(result)

    def fail(problem: BaseException) -> None:
        if not done.done():
            done.set_exception(problem)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                result = work()
            except BaseException as problem:  # noqa: BLE001 -- it is raised again where the result is awaited
                loop.call_soon_threadsafe(fail, problem)
            else:
                loop.call_soon_threadsafe(succeed, result)

    threading.Thread(target=run, daemon=True).start()
    return await done
