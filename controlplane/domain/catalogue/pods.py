"""What follows from what is seen of pods, and from what is done about Jobs.

It may come late, twice, or from somebody who is mistaken; what is settled stays so. No decision about a key depends on what was
done about a Job.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain.catalogue.entry import KeyEntry
from controlplane.domain.draft import Draft
from controlplane.domain.start_outcomes import note_done
from controlplane.domain.state import REMEMBERED_PODS, Pod
from woodfrog.protocol.events.base import AboutPod
from woodfrog.protocol.events.pods import (
    PodContainerEnded,
    PodEndCounted,
    PodGone,
    PodReplaced,
    PodScheduled,
    PodTerminating,
)
from woodfrog.protocol.pods import EndedBecause


def _pod(draft: Draft, event: AboutPod) -> Pod:
    return draft.pods.get(event.uid) or Pod(name=event.pod, uid=event.uid)


def _keep(draft: Draft, pod: Pod) -> None:
    pods = {**draft.pods, pod.uid: pod}
    if len(pods) > REMEMBERED_PODS:
        first = next((uid for uid, seen in pods.items() if seen.gone_at is not None), next(iter(pods)))
        del pods[first]
    draft.pods = pods


def _scheduled(draft: Draft, event: PodScheduled, _at: datetime) -> None:
    _keep(draft, replace(_pod(draft, event), node=event.node))


def _terminating(draft: Draft, event: PodTerminating, at: datetime) -> None:
    pod = _pod(draft, event)
    _keep(
        draft,
        replace(
            pod,
            node=event.node or pod.node,
            terminating_at=pod.terminating_at or at,
            grace_seconds=event.grace_seconds,
            why=event.why,
            dumps_at_stop=event.dumps_at_stop,
        ),
    )


def _container_ended(draft: Draft, event: PodContainerEnded, _at: datetime) -> None:
    if event.incarnation in draft.incarnations:
        out_of_memory = event.because is EndedBecause.OOM_KILLED
        draft.start(event.incarnation, exit_code=event.exit_code, out_of_memory=out_of_memory)
        note_done(draft, event.incarnation)


def _gone(draft: Draft, event: PodGone, at: datetime) -> None:
    pod = _pod(draft, event)
    _keep(draft, replace(pod, gone_at=pod.gone_at or at))


ENTRIES: Final[tuple[KeyEntry[Any], ...]] = (
    KeyEntry(event=PodScheduled, state=_scheduled),
    KeyEntry(event=PodTerminating, state=_terminating),
    KeyEntry(event=PodContainerEnded, state=_container_ended),
    KeyEntry(event=PodGone, state=_gone),
    KeyEntry(event=PodReplaced),
    KeyEntry(event=PodEndCounted),
)
