"""How many failures a Job may have: the user's ``backoffLimit``, raised by what is not the program's failure.

The Job controller holds every deleted pod against ``backoffLimit``, at the moment when it sees the deletion (job_controller.go,
isPodFailed). So the number is kept ahead of it:

    backoffLimit = the user's number + failures in the Job's status that are not the program's own + the pods that may run at once

The last part is the lead: so many pods may be deleted without ending the Job, whether anything of Woodfrog runs at that moment
or not. **Once the program's own failures exceed the user's number, the lead is taken away**, and the Job controller ends the Job
as it would have without Woodfrog. It makes no other pod meanwhile, because it waits at least 10 s after a failure.

Which ends are the program's own:

- The pod failed without having been ended from outside: exit code, OOM, its deadline, a kubelet that would not start it.
- It was ended from outside (deletion, eviction, preemption, drain, taint, node shutdown, node gone) and the work of one of its protected
  containers is lost (:mod:`controlplane.domain.captures`).

Everything else is not: what was captured, what a podFailurePolicy ignores, and what nobody can know, because the pod came and was
deleted while no control plane ran. What the Job controller takes away without counting it, from a suspended Job or one with too
many pods, is in no account.

An end is entered once, by the pod's uid, when the Job controller has taken it into the Job's status. The ledger is an annotation of
the Job and is written together with ``backoffLimit`` in one request that names the version of the Job that it was computed
from. So nothing is entered twice or lost, whoever leads, restarts or is away in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, Protocol

import msgspec

from controlplane.domain.captures import Capture
from controlplane.kube.jobs.failure_policy import IGNORE, action_for
from controlplane.kube.jobs.models import LEDGER, Job, JobPod
from controlplane.kube.pod_diff import PodView
from woodfrog.protocol import wire
from woodfrog.protocol.pods import EndedBecause

_LARGEST: Final = 2**31 - 1
"""What ``backoffLimit`` can hold."""
MOST: Final = 1000
"""So many pods of a Job are followed at once, and a higher ``backoffLimit`` is left alone: an object's annotations may have 256 KiB."""

Ids = tuple[str, ...]
"""The checkpoint ids of a pod."""


class Ledger(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in the Job's annotation."""

    limit: int
    """The user's number."""
    set: int
    """What ``backoffLimit`` was set to; if it is another now, the user has changed it."""
    own: tuple[str, ...] = ()
    """Uids of the pods whose ends are the program's own failures and in the Job's status."""
    open: dict[str, Ids] = {}
    """By uid, the pods whose end has not come or is not decided."""


class End(Enum):
    """How a pod stands."""

    RUNNING = auto()
    UNDECIDED = auto()
    """It was ended from outside, and its last dump may still come."""
    CAPTURED = auto()
    OWN = auto()
    UNCOUNTED = auto()
    """It succeeded, a policy ignores its end, or the Job controller takes it away without counting it."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A pod of the Job as it was seen last; ``gone`` if the API no longer has it."""

    view: PodView
    job: JobPod
    gone: bool = False

    @property
    def failed_by_itself(self) -> bool:
        """Whether it failed without having been ended from outside."""
        return self.job.phase == "Failed" and self.view.terminating is None


class Captures(Protocol):
    """Returns what became of the work of a pod that was ended from outside."""

    def __call__(self, uid: str, name: str, ids: Ids, *, has_run: bool) -> Capture:
        """Look into the log."""
        ...


class Account(msgspec.Struct, frozen=True):
    """How a Job stands."""

    ledger: Ledger
    ends: Mapping[str, End]
    """By uid: of every pod that was seen or is followed."""
    others: int
    """Failures in the Job's status that are not the program's own."""
    exhausted: bool
    """Whether the program's own failures exceed the user's number."""
    changed: bool
    """Whether the Job has to be patched."""
    urgent: bool
    """Whether that cannot wait: fewer failures are left than pods may end at once, or the Job has to end."""


def read_ledger(job: Job) -> Ledger | None:
    """Read the annotation; ``None`` if there is none, or none that can be read."""
    text = (job.metadata.annotations or {}).get(LEDGER)
    if text is None:
        return None
    try:
        found: Ledger = wire.decode(text.encode(), Ledger)
    except wire.MalformedMessageError:
        return None
    return found


def account(job: Job, pods: Mapping[str, Seen], captures: Captures) -> Account | None:
    """Return how the Job stands; ``None`` if nothing is to be done about it.

    ``pods`` are those of the Job that have protected containers. A Job whose pods the Job controller does not track with finalizers, as
    before Kubernetes 1.26, is left alone: nothing is counted at a deletion there.
    """
    if job.managed_elsewhere or job.ending:
        return None
    before = read_ledger(job)
    known = before or Ledger(limit=job.backoff_limit, set=job.backoff_limit)
    followed = dict(known.open)
    for uid, each in pods.items():
        if each.job.tracked and not each.gone and len(followed) < MOST:
            followed.setdefault(uid, _ids(each.view))
    if before is None and not followed:
        return None
    ends = {uid: end_of(job, uid, pods.get(uid), followed.get(uid, ()), captures) for uid in {**followed, **pods}}
    own, not_counted, ahead, open_pods = list(known.own), 0, 0, dict[str, Ids]()
    for uid, end in ends.items():
        seen = pods.get(uid)
        released = seen is None or seen.gone or not seen.job.tracked
        counted = released or uid in (job.uncounted.failed or ())
        if (
            end is End.OWN
            and uid not in known.own
            and (uid in followed or (seen is not None and seen.failed_by_itself))
        ):
            if not counted:
                not_counted += 1
            elif len(own) < job.failed:
                own.append(uid)
        if uid in followed and not (released and end is not End.UNDECIDED):
            open_pods[uid] = followed[uid]
            ahead += end in {End.RUNNING, End.CAPTURED, End.UNDECIDED} and not counted
    limit = known.limit if known.set == job.backoff_limit else job.backoff_limit
    others = max(0, job.failed - len(own))
    restarted = _restarts_exceed(job, pods, limit)
    exhausted = len(own) + not_counted > limit or restarted
    lead = 0 if exhausted else max(_at_once(job), ahead)
    now = limit if restarted else min(_LARGEST, limit + others + lead)
    ledger = Ledger(limit=limit, set=now, own=tuple(own), open=open_pods)
    changed = limit <= MOST and (ledger != before or now != job.backoff_limit)
    urgent = exhausted or job.backoff_limit - job.failed < lead
    return Account(ledger=ledger, ends=ends, others=others, exhausted=exhausted, changed=changed, urgent=urgent)


def given_back(job: Job) -> int | None:
    """Return what ``backoffLimit`` will be once nobody keeps it ahead any more; ``None`` if nobody does now.

    What is not the program's own stays in it: it is in the Job's status, and the bare number would end the Job on the spot.
    """
    ledger = read_ledger(job)
    if ledger is None:
        return None
    limit = ledger.limit if ledger.set == job.backoff_limit else job.backoff_limit
    return min(_LARGEST, limit + max(0, job.failed - len(ledger.own)))


def end_of(job: Job, uid: str, seen: Seen | None, ids: Ids, captures: Captures) -> End:
    """Return how one pod stands. A pod that nobody here has seen is gone; so it was ended from outside."""
    if seen is None:
        return _of_captures(captures(uid, "", ids, has_run=False))
    pod = seen.job
    if pod.phase == "Succeeded":
        return End.UNCOUNTED
    if pod.active and not seen.gone:
        return End.RUNNING if pod.tracked else End.UNCOUNTED
    if pod.phase == "Failed" and action_for(job.spec.pod_failure_policy, pod) == IGNORE:
        return End.UNCOUNTED
    if seen.failed_by_itself:
        return End.OWN
    return _of_captures(captures(uid, seen.view.name, _ids(seen.view, but_completed=True), has_run=seen.view.has_run))


def wanted(job: Job, pods: Mapping[str, Seen]) -> int:
    """Return how many pods should be active, as the Job controller computes it (manageJob)."""
    parallelism = 1 if job.spec.parallelism is None else job.spec.parallelism
    uncounted = job.uncounted.succeeded or ()
    fresh = (uid for uid, each in pods.items() if each.job.phase == "Succeeded" and each.job.tracked and not each.gone)
    succeeded = (job.status.succeeded or 0) + len(uncounted) + sum(uid not in uncounted for uid in fresh)
    if job.spec.completions is None:
        return sum(each.job.active and not each.gone for each in pods.values()) if succeeded else parallelism
    return max(0, min(parallelism, job.spec.completions - succeeded))


def _at_once(job: Job) -> int:
    parallelism = 1 if job.spec.parallelism is None else job.spec.parallelism
    return parallelism if job.spec.completions is None else min(parallelism, job.spec.completions)


def _ids(view: PodView, *, but_completed: bool = False) -> Ids:
    """Return the pod's ids; those of containers that have completed, and were not started again since, may be left out."""
    ended = {(each.container, each.container_id) for each in view.ended if each.because is EndedBecause.COMPLETED}
    done = ended if but_completed else set()
    return tuple(sorted({each.checkpoint_id for each in view.containers if (each.name, each.container_id) not in done}))


def _of_captures(capture: Capture) -> End:
    return {Capture.KEPT: End.CAPTURED, Capture.OPEN: End.UNDECIDED, Capture.LOST: End.OWN}[capture]


def _restarts_exceed(job: Job, pods: Mapping[str, Seen], limit: int) -> bool:
    """Whether the kubelet restarted containers as often as the user allows (pastBackoffLimitOnFailure)."""
    if job.spec.template.spec.restart_policy != "OnFailure":
        return False
    restarts = sum(each.job.restarts for each in pods.values() if not each.gone and not each.job.terminal)
    return restarts >= max(1, limit)
