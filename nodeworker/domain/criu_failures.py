"""What a log of CRIU means: its lines looked up in the table of complaints.

CRIU writes a log for its developers; a person who lost a container needs the cause in a sentence and the next step.
"""

from __future__ import annotations

import re
from typing import Final

from nodeworker.domain.complaint import Rule
from nodeworker.domain.criu_complaints import RULES, UNKNOWN
from woodfrog.protocol.failures import Failure

_DETAIL_LINES: Final = 8


_SIGNALS: Final = {
    "segfault": "SIGSEGV",
    "general protection": "SIGSEGV",
    "stack segment": "SIGSEGV",
    "invalid opcode": "SIGILL",
    "trap int3": "SIGTRAP",
    "Killed process": "SIGKILL, because memory ran out",
}
"""What the kernel's log says of a process that ended by a signal (arch/x86/kernel/traps.c, mm/oom_kill.c)."""

_ERROR_LINE = re.compile(r"\bError \(|(?i:level=\"?(?:error|fatal))|\"level\":\s*\"(?:error|fatal)\"")

_NOISE = re.compile(r"RLIMIT_NOFILE for self|cgroupd: recv req error")
"""Errors that CRIU reports in dumps and restores that succeed as well."""


def explain(log: str, stderr: str = "") -> Failure:
    """Find the cause in CRIU's log and in what runc wrote to stderr. Never raises; the detail holds the last error lines.

    Only lines that report an error are searched: CRIU warns about much that does no harm.
    """
    errors = complaints(log)
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = errors + said
    found, line = next(((rule, line) for rule in RULES for line in lines if rule.fits(line)), (UNKNOWN, ""))
    return found.failure("\n".join(lines[-_DETAIL_LINES:]), line)


def complaints(log: str) -> list[str]:
    """Return the lines of CRIU's log that report an error which is one."""
    return [line.strip() for line in log.splitlines() if _ERROR_LINE.search(line) and not _NOISE.search(line)]


def rule(code: str) -> Rule:
    """Find a row by its code.

    Raises:
        KeyError: when there is none.
    """
    for row in RULES:
        if row.code == code:
            return row
    raise KeyError(code)


def io_uring(cause: str) -> Failure:
    """The failure for io_uring found before the dump, with a cause that names the process."""
    return Failure(code="io-uring", cause=cause, advice=rule("io-uring").advice)


def crashed(failure: Failure, version: str | None, kernel_line: str | None) -> Failure:
    """Add to ``criu-crashed`` what is known: CRIU's version, and the kernel's line about its end."""
    name = f"CRIU {version}" if version else "CRIU"
    signal = next((name for fragment, name in _SIGNALS.items() if fragment in (kernel_line or "")), "a signal")
    cause = f"{name} crashed: it ended by {signal}" if kernel_line else f"{name} crashed: it ended without an answer"
    detail = "\n".join(part for part in (failure.detail, kernel_line) if part)
    return Failure(failure.code, cause, failure.advice, detail)


def criu_missing(path: str, detail: str) -> Failure:
    """The failure for a CRIU that does not start."""
    return Failure(code="criu-missing", cause=f"{path} does not run", advice=rule("criu-missing").advice, detail=detail)


def too_slow(what: str, seconds: float) -> Failure:
    """The failure for a step of the self-test that was not done in time, which says nothing against CRIU."""
    advice = "Look at the machine's load, and run `woodfrog-node self-test` again."
    return Failure(code="self-test-timeout", cause=f"{what} within {seconds:g} s", advice=advice)


def criu_unusable(path: str, detail: str) -> Failure:
    """The failure for a CRIU whose own check fails, or that is too old."""
    cause = f"{path} does not work here: {detail.splitlines()[-1] if detail else 'its own check fails'}"
    return Failure(code="criu-unusable", cause=cause, advice=rule("criu-unusable").advice, detail=detail)
