"""What pods tell about the starts of a key: which of them is ending, so that its last dump is worth waiting for.

A pod is told to end some time before its node's worker has anything to report: the kubelet has to hear of it, and a preStop
hook may come first. Meanwhile the Job controller may have made the replacement already (KEP-3939, ``podReplacementPolicy``),
and started from what is stored it would step back by everything since.

What is seen of pods may come late, twice, or from somebody who is mistaken. So nothing is decided from it but to wait a little,
and never in place of a worker's word: that a pod is gone, or its container ended, does not say that it was not dumped.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controlplane.domain.state import Incarnation, KeyState, Pod
from woodfrog.protocol.ids import IncarnationNumber

MARGIN_SECONDS = 15.0
"""How long after its grace period a pod's dump may still begin: a kubelet and a worker under load are late."""


def pod_of(key: KeyState, start: Incarnation) -> Pod | None:
    """Find the pod of a start: by its uid, or where the engine did not tell that, by name and node."""
    told = start.container
    if told.pod_uid is not None:
        return key.pods.get(told.pod_uid)
    if told.pod is None:
        return None
    same = (pod for pod in reversed([*key.pods.values()]) if pod.name == told.pod and pod.node in {None, start.node})
    return next(same, None)


def start_of(key: KeyState, uid: str, name: str) -> IncarnationNumber:
    """Name the newest start of a pod; 0 if it has none yet."""
    own = (
        number
        for number, start in key.incarnations.items()
        if start.container.pod_uid == uid or (start.container.pod_uid is None and start.container.pod == name)
    )
    return max(own, default=IncarnationNumber(0))


def ending_until(key: KeyState, start: Incarnation) -> datetime | None:
    """Say until when the start's last dump may yet begin because its pod was asked to end; ``None`` if it was not.

    Measured by one clock, from when it was seen: the API server's may differ. A pod that is gone was deleted by force, or its
    containers have ended and their worker will say so within moments.
    """
    pod = pod_of(key, start)
    if pod is None:
        return None
    ends = []
    if pod.terminating_at is not None:
        ends.append(pod.terminating_at + timedelta(seconds=pod.grace_seconds + MARGIN_SECONDS))
    if pod.gone_at is not None:
        ends.append(pod.gone_at + timedelta(seconds=MARGIN_SECONDS))
    return min(ends, default=None)


def ends_undumped(key: KeyState, start: Incarnation) -> bool:
    """Whether the start's owner wants no dump of it when it is told to stop, and it was told."""
    pod = pod_of(key, start)
    return pod is not None and pod.terminating_at is not None and not pod.dumps_at_stop
