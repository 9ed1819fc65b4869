"""What a stop signal leaves a dump: how long its engine waits before it kills, how often it is tried, and what is said when that was not enough."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from nodeworker import bundle
from nodeworker.domain import checkpoint_options, dump_retries
from nodeworker.domain.dump_scheduling import DEFAULT_GRACE_SECONDS
from nodeworker.errors import refusal
from nodeworker.journal import ContainerRecord, DumpRecord
from woodfrog.protocol.failures import Failure

_log = structlog.get_logger(component="dump")


def grace_seconds(container: ContainerRecord) -> float:
    """Tell how long after its stop signal a container has; refuse if its owner wants the signal to mean what it always meant.

    Raises:
        FailureError: ``stop-ignored``; ``bundle-unreadable``.
    """
    live = bundle.read(container.bundle)
    if not live.options.dump_on_stop:
        raise refusal(
            "stop-ignored",
            f"the pod's annotation {checkpoint_options.ON_STOP} says that the stop signal takes no snapshot",
            "Nothing to do: the container gets the signal.",
        )
    return DEFAULT_GRACE_SECONDS if live.grace_seconds is None else live.grace_seconds


def lateness(container: ContainerRecord, came: datetime, deadline: datetime) -> tuple[str, ...]:
    """Say so if the turn of a stop came too late: its engine may kill the container in the middle of the dump."""
    now = datetime.now(UTC)
    if now <= deadline:
        return ()
    warning = (
        f"the dump began {(now - came).total_seconds():.1f} s after the stop signal, because other dumps of the node came first; "
        f"the grace period was {(deadline - came).total_seconds():g} s"
    )
    _log.warning(
        "a final dump begins after its deadline",
        container_id=container.container_id,
        key=str(container.key),
        warning=warning,
    )
    return (warning,)


class Tries:
    """The tries of one final dump: all are one dump to the log, so that a successor waits for the last of them."""

    def __init__(self, came: datetime, deadline: datetime) -> None:
        self._until = came + (deadline - came) / 2
        self._failed = 0
        self.record: DumpRecord | None = None
        """The dump, once it was tried."""
        self.announced = False
        self.failure: Failure | None = None
        """Why the last try failed."""

    def pause_seconds(self, failure: Failure) -> float | None:
        """Note that a try failed; say after which pause there is another, or ``None``."""
        self._failed += 1
        if self.failure is None or not dump_retries.tells_why(self.failure.code, failure.code):
            self.failure = failure
        left_seconds = (self._until - datetime.now(UTC)).total_seconds()
        pause = dump_retries.pause_seconds(failure.code, self._failed, left_seconds)
        if pause is not None:
            _log.warning("a final dump is tried again", pause_seconds=pause, failure=str(failure))
        return pause


def gone(came: datetime) -> Failure:
    """Say that a container ended while it waited for its dump."""
    waited_seconds = (datetime.now(UTC) - came).total_seconds()
    return Failure(
        "ended-waiting",
        f"the container ended while its dump waited {waited_seconds:.1f} s for its turn",
        "If many are stopped at once, give them a longer grace period, or see WOODFROG_DUMPS_AT_ONCE.",
    )
