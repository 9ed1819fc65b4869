"""One JSON object a line on standard error: ``ts``, ``level``, ``msg``, ``component`` and whatever the caller bound.

``structlog.get_logger(component=...)`` names the component; structlog keeps the name ``logger`` for itself. What a line is about has the
same names everywhere, so that one filter finds all lines about one thing: ``key`` (cluster, namespace and id), ``command_id``,
``container_id``, ``snapshot_id``, ``node`` and ``position``, that of an event in the log. Whoever works for one of them says so once, by
:func:`about`, and every line until the end of that work has it, also those of threads and tasks that are begun meanwhile.

Payloads never appear: a log line may name a snapshot, not show its memory. Nor do the local variables of a traceback, which
structlog shows by default: settings are among them, and in them the passwords of the database and of NATS.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer

if TYPE_CHECKING:
    from structlog.typing import EventDict


_of_process: Final[dict[str, str]] = {}
_threshold = logging.INFO


def configure(level: str = "info") -> None:
    """Set the process's logging up; call once, first thing in ``main``."""
    global _threshold  # noqa: PLW0603 - structlog does not say how it was configured
    _threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            _add_process,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.EventRenamer("msg"),
            _name_errors,
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_threshold),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _Lines(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Standard error, as far as anybody takes it: its reader may be gone and its disk full, and the work that is spoken of goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or leave it."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or leave it."""
        with suppress(OSError):
            self._stream.flush()


def says(level: int) -> bool:
    """Whether lines of a level are written."""
    return level >= _threshold


def of_process(**fields: str) -> None:
    """Have every line from now on say this of its process, such as the node that it serves, unless the line says otherwise."""
    _of_process.update(fields)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Have every line until the end of the block say what it is about; what is ``None`` is not said."""
    with structlog.contextvars.bound_contextvars(
        **{name: _plain(value) for name, value in fields.items() if value is not None}
    ):
        yield


def also_about(**fields: object) -> None:
    """Say more until the end of the enclosing :func:`about`, or of the task."""
    structlog.contextvars.bind_contextvars(**{name: _plain(value) for name, value in fields.items()})


def _plain(value: object) -> object:
    return value if isinstance(value, int | float) else str(value)


def _add_process(_logger: object, _level: str, fields: EventDict) -> EventDict:
    for name, value in _of_process.items():
        fields.setdefault(name, value)
    return fields


def _name_errors(_logger: object, _level: str, fields: EventDict) -> EventDict:
    """Write an error as its class and what it says: many say nothing in their ``repr``, or nothing else than a number in their ``str``."""
    return {
        name: f"{type(value).__name__}: {value}".removesuffix(": ") if isinstance(value, BaseException) else value
        for name, value in fields.items()
    }
