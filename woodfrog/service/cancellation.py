"""The end of a loop that talks to the broker: a cancellation that got lost on the way is taken up at the next turn.

nats-py waits for answers with ``asyncio.wait_for``, which until Python 3.12 forgets a cancellation that arrives together with
the answer (bpo-37658). A task in an endless loop would then go on for ever, and a leader that has lost the lead, whose tasks
are all ended at one moment, would never come to its end.
"""

from __future__ import annotations

import asyncio


def end_if_cancelled() -> None:
    """Raise what was swallowed.

    Raises:
        asyncio.CancelledError: this task was cancelled, and somebody below took that for something else.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
