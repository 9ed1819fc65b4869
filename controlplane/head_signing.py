"""Signing where the log stands, every hour, and putting it where the database's owner does not write.

The head goes into the log itself, and from there to AUDIT, whose readers keep it; and into a ConfigMap, where there is Kubernetes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final

import structlog

from controlplane.core.input_queue import UndecidableError
from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import HeadTaken
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.log.eventlog import EventLog
from controlplane.log.heads import HeadKey
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import wire
from woodfrog.protocol.events import LogHeadSigned

_log = structlog.get_logger(component="heads")

EVERY_SECONDS: Final = 3600.0
CONFIG_MAP: Final = "woodfrog-log-head"
_RETRY_SECONDS: Final = 60.0

Publish = Callable[[LogHeadSigned], Awaitable[None]]


async def sign_heads(
    log: EventLog,
    loop: DecisionLoop,
    key: HeadKey,
    cluster: str,
    *,
    clock: Callable[[], datetime],
    publish: Publish | None = None,
    every_seconds: float = EVERY_SECONDS,
) -> None:
    """Sign until cancelled: at once, and then every hour in which something happened."""
    await _log.ainfo("heads of the log are signed", public_key=key.public)
    signed = 0
    while True:
        try:
            position, heads = await log.chain_heads()
            if position > signed:
                head = key.sign(cluster, position, heads, clock())
                await (await loop.enqueue(HeadTaken(head, f"head/{position}/{head.signature}"), actor="controlplane"))
                signed = position + 1  # with nothing but this head behind it, the next says nothing
                if publish is not None:
                    await publish(head)
        except (LogUnavailableError, UndecidableError, ApiError, OSError, TimeoutError) as problem:
            await _log.awarning("no head was signed, or it was not published", error=problem)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            await asyncio.sleep(every_seconds)


def into_config_map(api: KubernetesApi, namespace: str) -> Publish:
    """Publish the newest head in a ConfigMap of the control plane's namespace."""
    folder = f"/api/v1/namespaces/{namespace}/configmaps"

    async def publish(head: LogHeadSigned) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": namespace},
            "data": {"head.json": wire.encode(head).decode(), "public-key": head.public_key},
        }
        try:
            await api.ask("PUT", f"{folder}/{CONFIG_MAP}", dict, body)
        except ApiError as problem:
            if problem.status != HTTPStatus.NOT_FOUND:
                raise
            await api.ask("POST", folder, dict, body)

    return publish
