"""Keeps the Jobs of protected pods going: what was seen of them, and when to look after one.

The decisions are pure (:mod:`~controlplane.kube.jobs.ledger`, :mod:`~controlplane.kube.jobs.replacement`); here is what they
are made from, and what happens when the API server refuses. A Job is looked after whenever it or one of its pods changed. The pod that
is missing is created first, at once, from a fresh look at the Job and its pods. The ledger is written a moment later if that can wait,
so that one request covers what happens together and does not get in the way of the Job controller's own.

Only the leader does this. A deposed one that does not know it yet does no harm: the ledger is written on condition of the
Job's version, and a pod in place of another has the same name whoever creates it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from controlplane.core.input_queue import InputQueue, UndecidableError
from controlplane.domain.captures import Capture, capture_of, together
from controlplane.domain.inputs import JobActed
from controlplane.domain.state import KeyState, NodeState
from controlplane.kube.api import ApiError
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.ledger import Account, Captures, End, Ids, Seen, account, read_ledger
from controlplane.kube.jobs.models import LEDGER, Job, protected
from controlplane.kube.jobs.replacement import index_is_spent, may_be_replaced, replacement, to_replace
from controlplane.kube.pod_diff import PodView
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import wire
from woodfrog.protocol.ids import CheckpointKey, NodeName

_log = structlog.get_logger(component="jobs")

_WORKERS: Final = 8
"""So many Jobs are looked after at once."""
_SETTLE_SECONDS: Final = 0.5
"""How long what happens to a Job is gathered before its ledger is written."""
_SHORTEST_SECONDS: Final = 0.01
_LOOK_SECONDS: Final = 1.0
"""How long until another look at a Job whose pods' last dumps are still open, or whose request found no answer."""
_REFUSED_SECONDS: Final = 60.0
"""How long until a request that was refused for good is tried again."""

Find = Callable[[CheckpointKey], KeyState | None]
Nodes = Callable[[], Mapping[NodeName, NodeState]]


class JobReconciler:
    """Looks after Jobs. A :class:`~controlplane.kube.listwatch.Follower` of them."""

    def __init__(
        self,
        actions: JobActions,
        intake: InputQueue,
        find: Find,
        nodes: Nodes,
        *,
        cluster: str,
        runtime_classes: tuple[str, ...],
        settle_seconds: float = _SETTLE_SECONDS,
    ) -> None:
        """``intake`` records what was done; ``find`` and ``nodes`` show keys and nodes as last decided."""
        self._actions = actions
        self._intake = intake
        self._find = find
        self._nodes = nodes
        self._cluster = cluster
        self._runtime_classes = runtime_classes
        self._settle_seconds = settle_seconds
        self._jobs: dict[str, Job] = {}
        self._pods: dict[str, dict[str, Seen]] = {}
        self._done: set[str] = set()
        """Uids of pods in whose place nothing is to be created any more."""
        self._refused: dict[str, bool] = {}
        """Uids of pods in whose place one was refused, and whether they were over by then."""
        self._gone: set[str] = set()
        """Uids in ledgers of which it was made sure that the API does not know them."""
        self._changed_at: dict[str, float] = {}
        self._queued: set[str] = set()
        self._queues: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in range(_WORKERS)]
        self._later: dict[str, asyncio.TimerHandle] = {}

    def keep(self, data: bytes) -> tuple[str, Job] | None:
        """Read a Job; ``None`` if none of its pods would be protected and none ever was."""
        job: Job = wire.decode(data, Job)
        if read_ledger(job) is None and not protected(job, self._runtime_classes):
            return None
        return job.uid, _trimmed(job)

    async def replaced(self, objects: dict[str, Job]) -> None:
        """Take in all Jobs."""
        for uid in self._jobs.keys() - objects.keys():
            await self.changed(uid, None)
        for uid, job in objects.items():
            await self.changed(uid, job)

    async def changed(self, uid: str, now: Job | None) -> None:
        """Take in how a Job is now."""
        if now is None:
            self._jobs.pop(uid, None)
            self._changed_at.pop(uid, None)
            self._forget(uid, list(self._pods.pop(uid, {})))
        else:
            self._jobs[uid] = now
            self._look_soon(uid)

    def pod_changed(self, before: PodView | None, now: PodView | None) -> None:
        """Take in how a pod with protected containers is now."""
        seen = now or before
        if seen is None or seen.job is None or seen.owner is None:
            return
        pods = self._pods.setdefault(seen.owner.uid, {})
        pods[seen.uid] = Seen(seen, seen.job, gone=now is None)
        if now is None and seen.owner.uid not in self._jobs:
            del pods[seen.uid]
            if not pods:
                del self._pods[seen.owner.uid]
            return
        self._look_soon(seen.owner.uid)

    async def run(self) -> None:
        """Look after Jobs until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for queue in self._queues:
                    group.create_task(self._work(queue))
        finally:
            for timer in self._later.values():
                timer.cancel()
            self._later.clear()

    def _look_soon(self, uid: str) -> None:
        if uid not in self._queued:
            self._queued.add(uid)
            # The same Job is always looked after by the same worker, so by one at a time.
            self._queues[hash(uid) % _WORKERS].put_nowait(uid)

    def _look_again(self, uid: str, seconds: float) -> None:
        if (timer := self._later.pop(uid, None)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._later[uid] = loop.call_later(seconds, self._look_now, uid)

    def _look_now(self, uid: str) -> None:
        self._later.pop(uid, None)
        self._look_soon(uid)

    async def _work(self, queue: asyncio.Queue[str]) -> None:
        while True:
            uid = await queue.get()
            self._queued.discard(uid)
            job = self._jobs.get(uid)
            if job is None:
                continue
            try:
                seconds = await self._look_after(job)
            except ApiError as problem:
                seconds = await self._log_problem(job, problem)
            if seconds is not None:
                self._look_again(uid, seconds)

    async def _look_after(self, job: Job) -> float | None:
        """Do what is to be done about a Job; return in how many seconds to look again, if not only when it changes."""
        await self._find_unseen(job)
        pods = dict(self._pods.get(job.uid, {}))
        state = account(job, pods, self._captures(job))
        if state is None:
            self._changed_at.pop(job.uid, None)
            self._forget(job.uid, [uid for uid, seen in pods.items() if seen.gone])
            return None
        seconds: list[float] = []
        if await self._wants_replacement(job, pods, state):
            await self._replace(job, pods)
        if state.changed and self._jobs.get(job.uid) is job:
            now = asyncio.get_running_loop().time()
            due = self._changed_at.setdefault(job.uid, now) + self._settle_seconds
            if now < due and not state.urgent:
                seconds.append(max(due - now, _SHORTEST_SECONDS))
            else:
                await self._write(job, pods, state)
        if End.UNDECIDED in state.ends.values():
            seconds.append(_LOOK_SECONDS)
        self._forget_entered(job.uid)
        return min(seconds, default=None)

    async def _find_unseen(self, job: Job) -> None:
        """Make sure that a pod which the ledger names and nobody has seen here is gone, before its end is entered."""
        ledger = read_ledger(job)
        if ledger is None or job.ending:
            return
        unseen = ledger.open.keys() - self._pods.get(job.uid, {}).keys() - self._gone
        if unseen:
            there = await self._actions.protected_pods(job)
            for found in there.values():
                if found.uid in unseen:
                    self.pod_changed(None, found)
            self._gone |= unseen - there.keys()

    def _captures(self, job: Job) -> Captures:
        def captures(uid: str, name: str, ids: Ids, *, has_run: bool) -> Capture:
            keys = (CheckpointKey(self._cluster, job.metadata.namespace, each) for each in ids)
            nodes = self._nodes()
            return together(
                capture_of(self._find(key) or KeyState(), nodes, uid, name, has_run=has_run) for key in keys
            )

        return captures

    async def _wants_replacement(self, job: Job, pods: Mapping[str, Seen], state: Account) -> bool:
        """Whether it is worth a fresh look at the Job. Pods that will never be replaced are remembered as such."""
        wanted = False
        for uid, seen in pods.items():
            end = state.ends[uid]
            if end is End.RUNNING or uid in self._done or (job.replaces_only_terminal and not _is_over(seen)):
                continue
            if may_be_replaced(job, seen, end):
                wanted = True
                continue
            self._done.add(uid)
            if end in {End.CAPTURED, End.UNDECIDED} and index_is_spent(job, seen.job):
                note = (
                    f"pod {seen.view.name} was the last try of index {seen.job.index}, which Kubernetes fails at the pod's "
                    "deletion: backoffLimitPerIndex cannot be raised. Ignore DisruptionTarget in a podFailurePolicy."
                )
                await self._actions.create_event(job, "IndexNotPreserved", note, pod=seen.view, once=uid, warning=True)
        return wanted

    async def _replace(self, seen_job: Job, seen_pods: Mapping[str, Seen]) -> None:
        """Create the pods that are missing, as a fresh look at the Job shows it."""
        fetched = await self._actions.fetch(seen_job)
        if fetched is None:
            return
        raw, job = fetched
        there = await self._actions.protected_pods(job)
        pods = {uid: Seen(view, view.job) for uid, view in there.items() if view.job is not None}
        pods |= {uid: msgspec.structs.replace(seen, gone=True) for uid, seen in seen_pods.items() if uid not in pods}
        state = account(job, pods, self._captures(job))
        if state is None:
            return
        tried = {uid for uid, over in self._refused.items() if uid in pods and over >= _is_over(pods[uid])}
        missing = to_replace(job, pods, state, self._done | tried)
        for seen in missing:
            await self._create(job, raw, seen, state)
        for uid, seen in pods.items():
            tried_again = self._refused.get(uid, True)
            waits = job.replaces_only_terminal and not _is_over(seen)
            if state.ends[uid] is not End.RUNNING and tried_again and not waits:
                self._done.add(uid)

    async def _create(self, job: Job, raw: dict[str, object], seen: Seen, state: Account) -> None:
        pod = replacement(raw, seen)
        name = pod["metadata"]["name"]
        why = _why(seen)
        try:
            await self._actions.create_pod(job.metadata.namespace, pod)
        except ApiError as problem:
            if (
                problem.status in {0, HTTPStatus.TOO_MANY_REQUESTS}
                or problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            ):
                raise
            over = _is_over(seen)
            self._refused[seen.view.uid] = over
            note = f"pod {name} in place of {seen.view.name} ({why}) was refused: {problem}; the Job controller makes it later"
            await self._actions.create_event(
                job, "ReplacementRefused", note, pod=seen.view, once=f"{seen.view.uid}/{over}", warning=True
            )
            return
        self._refused.pop(seen.view.uid, None)
        note = f"created pod {name} in place of {seen.view.name} ({why}); backoffLimit {state.ledger.limit} is kept for the program's own failures"
        await self._record(job, seen, replacement=name)
        await self._actions.create_event(job, "Replaced", note, pod=seen.view, once=seen.view.uid)

    async def _write(self, job: Job, pods: Mapping[str, Seen], state: Account) -> None:
        try:
            patched = await self._actions.patch(job, state.ledger.set, state.ledger)
        except ApiError as problem:
            if problem.status in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                return  # the watch brings what it is now
            raise
        self._changed_at.pop(job.uid, None)
        if self._jobs.get(job.uid) is job:
            self._jobs[job.uid] = _trimmed(patched)
        before = read_ledger(job)
        entered = (pods.keys() if before is None else before.open.keys()) - state.ledger.open.keys()
        self._gone -= entered
        for uid in entered:
            seen = pods.get(uid)
            if state.ends.get(uid) is End.OWN and seen is not None and not seen.failed_by_itself:
                note = f"pod {seen.view.name} was ended ({_why(seen)}) and nothing of it was captured: it counts against backoffLimit"
                await self._record(job, seen)
                await self._actions.create_event(job, "NotCaptured", note, pod=seen.view, once=uid, warning=True)
        if state.exhausted:
            note = f"the program's own failures exceed backoffLimit {state.ledger.limit}; {state.others} other ends were not counted"
            await self._actions.create_event(job, "RetriesUsedUp", note, once=str(state.ledger.limit), warning=True)

    async def _record(self, job: Job, seen: Seen, replacement: str | None = None) -> None:
        """Have it recorded what was done. A log that is away does not hold it up: the annotation and the Event say it as well."""
        view = seen.view
        ids = sorted({each.checkpoint_id for each in view.containers})
        acted = JobActed(
            keys=tuple(CheckpointKey(self._cluster, view.namespace, each) for each in ids),
            pod=view.name,
            uid=view.uid,
            job=job.metadata.name,
            why=_why(seen),
            replacement=replacement,
        )
        try:
            await (await self._intake.enqueue(acted, actor="controlplane"))
        except (LogUnavailableError, UndecidableError) as problem:
            await _log.awarning("what was done about a Job is not recorded", pod=view.name, error=str(problem))

    async def _log_problem(self, job: Job, problem: ApiError) -> float:
        """Log what went wrong; return in how many seconds it is worth trying again."""
        refused = (
            0 < problem.status < HTTPStatus.INTERNAL_SERVER_ERROR and problem.status != HTTPStatus.TOO_MANY_REQUESTS
        )
        name = f"{job.metadata.namespace}/{job.metadata.name}"
        await _log.awarning("a Job cannot be looked after", job=name, error=str(problem))
        return _REFUSED_SECONDS if refused else max(problem.retry_after_seconds, _LOOK_SECONDS)

    def _forget_entered(self, uid: str) -> None:
        """Forget the pods that are gone, need no replacement and whose end is entered in the ledger as it was written."""
        job = self._jobs.get(uid)
        ledger = read_ledger(job) if job is not None else None
        still_open = ledger.open if ledger is not None else {}
        pods = self._pods.get(uid, {})
        self._forget(uid, [each for each in pods if pods[each].gone and each in self._done and each not in still_open])

    def _forget(self, job: str, uids: list[str]) -> None:
        pods = self._pods.get(job, {})
        for uid in uids:
            pods.pop(uid, None)
            self._done.discard(uid)
            self._refused.pop(uid, None)
        if not pods:
            self._pods.pop(job, None)


def _why(seen: Seen) -> str:
    return "gone" if seen.view.terminating is None else seen.view.terminating.why.value


def _is_over(seen: Seen) -> bool:
    return seen.gone or seen.job.terminal


def _trimmed(job: Job) -> Job:
    """Leave out the annotations of others, which may be long."""
    annotations = {name: text for name, text in (job.metadata.annotations or {}).items() if name == LEDGER}
    return msgspec.structs.replace(job, metadata=msgspec.structs.replace(job.metadata, annotations=annotations))
