"""``python -m nodeworker``: serve this node until SIGTERM or Ctrl-C.

Exit codes: 0 told to stop, or a new life is to look at the node's new GPU driver, 1 died (the log says of what), 2 a setting is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from nodeworker.agent.app import Worker
from nodeworker.settings import from_environment
from woodfrog.protocol.failures import FailureError
from woodfrog.service import logs, tracing
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.lifecycle import until_signalled

_log = structlog.get_logger(component="worker")


def main() -> int:
    """Run the worker; answer the exit code."""
    logs.configure(os.environ.get("WOODFROG_LOG_LEVEL", "info"))
    try:
        settings = from_environment(os.environ)
        tracing.begin("woodfrog-node", {"host.name": settings.node})
    except (InvalidSettingError, tracing.InvalidTracingError) as problem:
        _log.error("a setting is wrong", error=str(problem))
        return 2
    logs.of_process(node=settings.node)
    try:
        asyncio.run(until_signalled(Worker(settings).run()))
    except FailureError as problem:
        _log.error("the node worker ends", code=problem.failure.code, error=str(problem))
        return 1
    except Exception:  # noqa: BLE001 -- the last word of a process that is dying of it
        _log.exception("the node worker died")
        return 1
    finally:
        tracing.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
