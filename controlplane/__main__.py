"""``python -m controlplane``: migrate the database, then serve until SIGTERM or Ctrl-C.

``python -m controlplane migrate`` does the first alone, as a role that may, for control planes that may not.
``move URL`` carries the log of another database, at that URL, over into an empty one (:mod:`controlplane.log.admin.transfer`);
``forget-audit`` deletes the stream AUDIT, for a log that begins anew on a broker that holds another log's.

Exit codes: 0 told to stop, 1 died (the log says of what), 2 a setting is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

import structlog

from controlplane.app import ControlPlane
from controlplane.bus.streams import forget_audit
from controlplane.log.admin.migrate import upgrade
from controlplane.log.admin.transfer import move
from controlplane.settings import Settings
from woodfrog.protocol.failures import FailureError
from woodfrog.service import logs, tracing
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.gc_tuning import collect_seldom
from woodfrog.service.lifecycle import until_signalled
from woodfrog.service.nats import connect
from woodfrog.service.natstls import Trust

_log = structlog.get_logger(component="controlplane")


async def _serve(environment: Mapping[str, str]) -> None:
    settings = Settings.from_environment(environment)
    tracing.begin("woodfrog-controlplane", {"woodfrog.cluster": settings.cluster}, environment)
    try:
        await upgrade(settings.database_url)
        await ControlPlane(settings).run()
    finally:
        tracing.end()


async def _migrate(environment: Mapping[str, str]) -> None:
    await upgrade(Settings.from_environment(environment).database_url)
    _log.info("the database is migrated")


async def _move(environment: Mapping[str, str], source_url: str) -> None:
    moved = await move(source_url, Settings.from_environment(environment).database_url)
    _log.info("the log is in its new database", events=moved.events, position=moved.position)


async def _forget_audit(environment: Mapping[str, str]) -> None:
    url, seed_file = environment.get("WOODFROG_NATS_URL", ""), environment.get("WOODFROG_NATS_SEED_FILE", "")
    client = await connect(
        url or "nats://127.0.0.1:4222",
        name="woodfrog forget-audit",
        seed_file=Path(seed_file) if seed_file else None,
        trust=Trust.from_environment(environment),
    )
    try:
        await forget_audit(client.jetstream())
    finally:
        await client.close()
    _log.info("the stream AUDIT is deleted; the control plane recreates and fills it from its log")


def _failures(problem: BaseException) -> list[FailureError]:
    if isinstance(problem, BaseExceptionGroup):
        return [failure for inner in problem.exceptions for failure in _failures(inner)]
    return [problem] if isinstance(problem, FailureError) else []


def main() -> int:
    """Run the control plane; answer the exit code."""
    logs.configure(os.environ.get("WOODFROG_LOG_LEVEL", "info"))
    collect_seldom()
    act: Callable[[Mapping[str, str]], Coroutine[None, None, None]]
    match sys.argv[1:]:
        case []:
            act = _serve
        case ["migrate"]:
            act = _migrate
        case ["move", source_url]:
            act = partial(_move, source_url=source_url)
        case ["forget-audit"]:
            act = _forget_audit
        case _:
            _log.error(
                "the verbs are `migrate`, `move URL` and `forget-audit`; there is no option", arguments=sys.argv[1:]
            )
            return 2
    try:
        asyncio.run(until_signalled(act(os.environ)))
    except (InvalidSettingError, tracing.InvalidTracingError) as problem:
        _log.error("a setting is wrong", error=str(problem))
        return 2
    except Exception as problem:  # noqa: BLE001 - the last word of a process that is dying of it
        _log.exception("the control plane died")
        for failure in _failures(problem):  # last, where `kubectl describe pod` looks for a reason
            _log.error("the control plane ends", code=failure.failure.code, error=str(failure))
        return 1
    if act is _serve:
        _log.info("the control plane has stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
