"""What of others' words enters a log that cannot forget.

Lines of CRIU's log name a workload's files, and whatever a program wrote may hold a password. A log is read by every reader of
SQL and AUDIT, archived, and chained so that nothing can be taken out again. So it holds codes and short sentences of our own, and says
where the rest is: on the node, in the worker's log and the folder of its kept logs.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from woodfrog.protocol.events import (
    CommandFinished,
    ContainerStarted,
    DumpFailed,
    ReportedEvent,
    RestoreFailed,
    SnapshotStored,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.reports import Report

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}", re.ASCII)
LONGEST_SENTENCE: Final = 500
LONGEST_WARNING: Final = 300
MOST_WARNINGS: Final = 20
ELSEWHERE: Final = "The lines of the tool's log are kept on the node: in the worker's log, and in the folder logs of its state directory."


def for_the_log(report: Report, *, details: bool) -> Report:
    """Return a report as it is recorded: without lines of tools' logs, unless ``details``, and with sentences of bounded length."""
    event = report.event
    kept = _shortened(event, details=details)
    return report if kept is event else replace(report, event=kept)


def word_of(text: str) -> str:
    """Return a kubelet's word for something; nothing if it is more than a word, for then it may be anybody's."""
    return text if _WORD.fullmatch(text) else ""


def _shortened(event: ReportedEvent, *, details: bool) -> ReportedEvent:
    if isinstance(event, DumpFailed | RestoreFailed):
        return replace(event, failure=_failure(event.failure, details=details))
    if isinstance(event, CommandFinished) and event.failure is not None:
        return replace(event, failure=_failure(event.failure, details=details))
    if isinstance(event, SnapshotStored | ContainerStarted) and event.warnings:
        warnings = tuple(_cut(each, LONGEST_WARNING) for each in event.warnings[:MOST_WARNINGS])
        return replace(event, warnings=warnings)
    return event


def _failure(failure: Failure, *, details: bool) -> Failure:
    detail = failure.detail if details or not failure.detail else ELSEWHERE
    return Failure(failure.code, _cut(failure.cause, LONGEST_SENTENCE), _cut(failure.advice, LONGEST_SENTENCE), detail)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
