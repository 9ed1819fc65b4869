"""Why a pod was deleted, as Events tell it where the pod itself does not: by whom it was preempted, or of which taint it went.

The scheduler says "Preempted by NAMESPACE/NAME on node NODE" (1.19 to 1.27) or "Preempted by pod UID on node NODE" (since), and
names the preemptor as what its Event relates to (pkg/scheduler/framework/preemption); the taint manager says "TaintManagerEviction".
"""

from __future__ import annotations

import re
from typing import Final

from controlplane.kube.api import KubernetesApi
from controlplane.kube.models import Event, EventList
from woodfrog.protocol.pods import Why

_PREEMPTED: Final = re.compile(r"[Pp]reempted by (?:pod )?(\S+)")


async def cause_of(api: KubernetesApi, namespace: str, uid: str) -> tuple[Why, str] | None:
    """Ask for the Events of a pod, and say what they tell of its end; ``None`` if nothing.

    Raises:
        ApiError: they cannot be had.
    """
    found = await api.ask(
        "GET",
        f"/api/v1/namespaces/{namespace}/events",
        EventList,
        fieldSelector=f"involvedObject.uid={uid}",
        limit="100",
    )
    return cause_in(found.items or [])


def cause_in(events: list[Event]) -> tuple[Why, str] | None:
    """Read a pod's Events."""
    for event in events:
        if event.reason == "Preempted":
            return Why.PREEMPTED, _preemptor(event)
    for event in events:
        if event.reason == "TaintManagerEviction":
            return Why.TAINTED, ""
    return None


def _preemptor(event: Event) -> str:
    named = event.related
    if named is not None and named.name:
        return f"{named.namespace}/{named.name}" if named.namespace else named.name
    said = _PREEMPTED.search(event.message or "")
    return said[1] if said is not None else ""
