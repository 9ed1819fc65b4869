"""Threads that the process does not wait for when it ends.

``asyncio.to_thread`` uses threads that Python joins at exit, so a worker told to stop would first finish an upload of many
gigabytes. Work that the next life takes up again, or that nobody needs any more, runs here instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def to_the_end(work: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run ``work`` in a thread and return its result; a caller that is cancelled waits for its end all the same.

    For what writes: whoever cleans up after a cancelled caller must not be overtaken by it.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def to_the_end_unless(leaving: asyncio.Event, work: Callable[[], _Result]) -> _Result:
    """Do as :func:`to_the_end` in a thread that the process does not wait for; once ``leaving`` is set, nobody does."""
    task = asyncio.ensure_future(in_daemon_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        left = asyncio.ensure_future(leaving.wait())
        await asyncio.wait([task, left], return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        raise


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

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    return await done
