"""Exceptions turned into failures that a person can act on, at the edges of a dump and of a restore."""

from __future__ import annotations

import sqlite3

from nodeworker.domain.common_failures import disk_full, is_disk_full
from woodfrog.protocol.failures import Failure, FailureError


def failure_of(problem: BaseException, doing: str = "") -> Failure:
    """Say as a :class:`Failure` what an exception of a dump or a restore means; ``doing`` is said of one that is a fault."""
    if isinstance(problem, FailureError):
        return problem.failure
    full = isinstance(problem, OSError) and is_disk_full(problem)
    if full or (isinstance(problem, sqlite3.OperationalError) and "full" in str(problem)):
        return disk_full("the worker's state directory", str(problem)).failure
    advice = "This is a fault in the worker; its log has the details."
    return Failure("internal", f"the worker failed{doing and f' {doing}'}: {problem!r}", advice)


def refusal(code: str, cause: str, advice: str, detail: str = "") -> FailureError:
    """Make the exception for a failure that the worker itself found."""
    return FailureError(Failure(code, cause, advice, detail))
