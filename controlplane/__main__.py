"""``python -m controlplane``: migrate the database, then serve until SIGTERM or Ctrl-C.

``python -m controlplane migrate`` does the first alone, as a role that may, for control planes that may not.

Exit codes: 0 told to stop, 1 died (the log says of what), 2 a setting is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from controlplane.app import ControlPlane
from controlplane.log.migrate import upgrade
from controlplane.settings import InvalidSettingError, Settings
from process import logs
from process.collection import collect_seldom
from process.lifecycle import until_signalled
from protocol.failures import FailureError

_log = structlog.get_logger(component="controlplane")


async def _serve(settings: Settings) -> None:
    await upgrade(settings.database_url)
    await ControlPlane(settings).run()


def _failures(problem: BaseException) -> list[FailureError]:
    if isinstance(problem, BaseExceptionGroup):
        return [failure for inner in problem.exceptions for failure in _failures(inner)]
    return [problem] if isinstance(problem, FailureError) else []


def main() -> int:
    """Run the control plane; answer the exit code."""
    logs.configure(os.environ.get("WOODFROG_LOG_LEVEL", "info"))
    collect_seldom()
    if sys.argv[1:] not in ([], ["migrate"]):
        _log.error("there is one verb, migrate, and no option", arguments=sys.argv[1:])
        return 2
    try:
        settings = Settings.from_environment(os.environ)
    except InvalidSettingError as problem:
        _log.error("a setting is wrong", error=str(problem))
        return 2
    try:
        if sys.argv[1:]:
            asyncio.run(upgrade(settings.database_url))
            _log.info("the database is migrated")
            return 0
        asyncio.run(until_signalled(_serve(settings)))
    except Exception as problem:  # noqa: BLE001 - the last word of a process that is dying of it
        for failure in _failures(problem):
            _log.error("the control plane ends", code=failure.failure.code, error=str(failure))
        _log.exception("the control plane died")
        return 1
    _log.info("the control plane has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
