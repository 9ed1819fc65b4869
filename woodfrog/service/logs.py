"""One JSON object a line on standard error: ``ts``, ``level``, ``msg``, ``component`` and whatever the caller bound.

``structlog.get_logger(component=...)`` names the component; structlog keeps the name ``logger`` for itself.
Payloads never appear: a log line may name a snapshot, not show its memory. Nor do the local variables of a traceback, which
structlog shows by default: settings are among them, and in them the passwords of the database and of NATS.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog
from structlog.tracebacks import ExceptionDictTransformer

if TYPE_CHECKING:
    from structlog.typing import EventDict


def configure(level: str = "info") -> None:
    """Set the process's logging up; call once, first thing in ``main``."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.EventRenamer("msg"),
            _name_errors,
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _name_errors(_logger: object, _level: str, fields: EventDict) -> EventDict:
    """Write an error as its class and what it says: many say nothing in their ``repr``, or nothing else than a number in their ``str``."""
    return {
        name: f"{type(value).__name__}: {value}".removesuffix(": ") if isinstance(value, BaseException) else value
        for name, value in fields.items()
    }
