"""A container's GPUs, put aside before a dump and brought back after it or after a restore.

Before the freeze every CUDA process is locked, then every one is checkpointed: its GPU memory then lies in its own memory
and it holds no device, so CRIU dumps it like any other. Locks come first for all, since a process may wait on its GPU for
the work of another. If anything fails, everything is set back, and the workload runs as before. After a dump that leaves
the workload running, and after a restore, all are restored before the first is unlocked. What a process needs is told by its
state in the driver, so each of this can be done again by a worker that starts anew. Processes are stepped at once, but for those
of a job, which may share GPU memory: these one after the other, in one order at every step (``cuda_processes.lanes_of``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from nodeworker.capture.criu.freezer import Freezer
from nodeworker.capture.criu.runc import RuncState
from nodeworker.capture.gpu import processes
from nodeworker.capture.gpu.driver import DriverError, GpuPairs
from nodeworker.capture.gpu.driver_process import DriverProcess
from nodeworker.capture.gpu.thread import running_alone
from nodeworker.domain import gpu
from nodeworker.domain.gpu import CudaState
from woodfrog.protocol.facts import ContainerFacts, NodeFacts, gpu_misfit
from woodfrog.protocol.failures import Failure, FailureError

_log = structlog.get_logger(component="cuda")
_AT_ONCE: Final = 16
_IDLE_SECONDS: Final = 120.0
"""Longer than a dump and the next one wait for each other where it matters, short enough for who replaces a driver."""
_NEWCOMER_ROUNDS: Final = 3
_RESUME_TRIES: Final = 3
_RETRY_SECONDS: Final = 0.5
_LEAST_LOCK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """The GPU side of a dump, known before anything is touched."""

    freezer: Freezer
    pids: tuple[int, ...]
    """CUDA processes, as the host sees them."""
    gpu_bytes: int
    traces: tuple[gpu.Traces, ...]


class Cuda:
    """All that one worker does with GPUs. Methods block; any thread may call them."""

    def __init__(self, driver: DriverProcess, node: NodeFacts, *, lock_seconds: float) -> None:
        self._driver = driver
        self._node = node
        self._lock_seconds = lock_seconds

    def plan(self, state: RuncState, pids: Sequence[int], gpus: tuple[str, ...] | None) -> GpuPlan | None:
        """Look for CUDA in a container that may have GPUs, and refuse what cannot work; ``None`` if there is nothing to do.

        ``gpus``: those that its bundle gives it. Where it gives none nothing is looked at, so that others pay nothing.

        Raises:
            FailureError: saying what speaks against it. Nothing was touched.
        """
        if gpus == ():
            return None
        traces = processes.traces_of(pids)
        if not any(trace.holds_device for trace in traces):
            return None
        gpu.refuse_without_means(self._node, None if self._driver.is_there else "the driver's libraries are nowhere")
        try:
            way = self._driver.name
        except DriverError as problem:
            gpu.refuse_without_means(self._node, str(problem))
            raise AssertionError from problem
        try:
            usage = self._driver.usage()
        except DriverError as problem:
            raise self._unseen(state.pid, problem) from problem
        cuda_pids = self._find(pids)
        using = {pid: usage.bytes_by_pid[str(pid)] for pid in pids if str(pid) in usage.bytes_by_pid}
        memory = state.cgroup_paths.get("memory")
        found = gpu.Preflight(
            traces=traces,
            cuda_pids=frozenset(cuda_pids),
            listed_pids=frozenset(using),
            mps_pids=frozenset(usage.mps_pids) & frozenset(pids),
            gpu_bytes=sum(using.values()),
            free_host_bytes=processes.free_host_bytes(state.freezer, Path(memory) if memory else None),
            gpus=gpus,
            hooked_mounts=processes.hooked_mounts(state.pid, processes.mounts_runc_made(state.config)),
        )
        gpu.refuse_before_lock(self._node, found)
        _log.info(
            "a container uses GPUs", container_id=state.container_id, pids=cuda_pids, way=way, bytes=found.gpu_bytes
        )
        return GpuPlan(state.freezer, cuda_pids, found.gpu_bytes, traces)

    def suspend(self, plan: GpuPlan, note: Callable[[tuple[int, ...]], None]) -> tuple[int, ...]:
        """Lock all, then checkpoint all, and answer which processes that were; the container must run.

        ``note`` is told before each lock which processes may be locked from now on, so that they are not forgotten.

        Raises:
            FailureError: and every process is as it was.
        """
        locked: tuple[int, ...] = ()
        began = time.monotonic()
        try:
            wanted = plan.pids
            for _ in range(_NEWCOMER_ROUNDS):
                note((*locked, *wanted))
                deadline = time.monotonic() + self._lock_seconds
                self._all("lock", wanted, plan, partial(self._lock, deadline=deadline))
                locked = (*locked, *wanted)
                # A process may have begun with CUDA meanwhile; one that has is found in the next round.
                wanted = tuple(pid for pid in self._find(plan.freezer.pids()) if pid not in locked)
                if not wanted:
                    break
            lock_seconds = time.monotonic() - began
            self._all("checkpoint", locked, plan, self._driver.checkpoint)
        except BaseException:
            self.resume(tuple({*locked, *wanted}))
            raise
        seconds = time.monotonic() - began - lock_seconds
        _log.info(
            "GPUs are put aside",
            pids=locked,
            bytes=plan.gpu_bytes,
            lock_seconds=round(lock_seconds, 4),
            checkpoint_seconds=round(seconds, 4),
        )
        return locked

    def resume(self, pids: Collection[int]) -> None:
        """Bring every process of a running container back to where it was, as far as its state asks for it.

        Raises:
            FailureError: ``gpu-lost``, when some process cannot go on; the others do.
        """
        self._bring_back(tuple(sorted(pids)), (), alone=False)

    def refuse_restore(self, taken_on: NodeFacts, taken_from: ContainerFacts, container: ContainerFacts) -> None:
        """Refuse a snapshot with GPUs that cannot go on here, before anything of it is put into the container.

        Raises:
            FailureError: ``gpu-means-missing``, ``gpu-driver-old`` or ``gpu-unfit``.
        """
        gpu.refuse_without_means(self._node, None if self._driver.is_there else "the driver's libraries are nowhere")
        why = gpu_misfit(taken_on, taken_from, self._node, container)
        if why is not None:
            advice = "Give the container GPUs of the same kind, on a node with the same driver."
            raise FailureError(Failure("gpu-unfit", f"the snapshot does not fit: {why}", advice))

    def resume_stopped(self, state: RuncState, pairs: GpuPairs) -> tuple[int, ...]:
        """Bring back the GPUs of a container that was restored and stands, and answer the processes; they keep standing.

        Raises:
            FailureError: when some process cannot go on.
        """
        pids = self._find(state.freezer.pids())
        self._bring_back(pids, pairs, alone=True)
        return pids

    @property
    def driver_changed(self) -> bool:
        """Whether what this node's facts say of its driver is true no more, so that the worker should begin anew."""
        return self._driver.has_changed

    def rest(self) -> None:
        """Let the driver go while nobody needs it."""
        self._driver.rest(_IDLE_SECONDS)

    def close(self) -> None:
        """Let the driver go."""
        self._driver.close()

    def _find(self, pids: Iterable[int]) -> tuple[int, ...]:
        found = []
        for pid in pids:
            try:
                if self._driver.restore_thread(pid) is not None:
                    found.append(pid)
            except DriverError as problem:
                raise self._unseen(pid, problem) from problem
        return tuple(found)

    def _unseen(self, pid: int, problem: DriverError) -> FailureError:
        driver = self._node.gpu_driver
        return FailureError(gpu.explain_driver_error("look at", pid, str(problem), driver=driver, processes=1))

    def _lock(self, pid: int, deadline: float) -> None:
        """Lock within what is left until ``deadline``: processes of a job wait for one another."""
        left = deadline - time.monotonic()
        self._driver.lock(pid, max(left, min(_LEAST_LOCK_SECONDS, self._lock_seconds)))

    def _all(self, step: str, pids: Sequence[int], plan: GpuPlan, act: Callable[[int], None]) -> None:
        """Do a step of all processes, and raise what the first that failed says."""
        problems = _at_once(pids, act, to_the_end=False)
        for pid, problem in problems.items():
            if not isinstance(problem, DriverError):
                raise problem
            if Path(f"/proc/{pid}").exists():
                raise FailureError(
                    gpu.explain_driver_error(
                        step, pid, str(problem), driver=self._node.gpu_driver, processes=len(pids), traces=plan.traces
                    )
                ) from problem

    def _bring_back(self, pids: tuple[int, ...], pairs: GpuPairs, *, alone: bool) -> None:
        began = time.monotonic()
        left: dict[int, BaseException] = {}
        for attempt in range(_RESUME_TRIES):
            failed = _at_once(pids, lambda pid: self._restore(pid, pairs, alone=alone), to_the_end=True)
            restored = time.monotonic()
            back = [pid for pid in pids if pid not in failed]
            left = failed | _at_once(back, lambda pid: self._unlock(pid, alone=alone), to_the_end=True)
            left = {pid: problem for pid, problem in left.items() if Path(f"/proc/{pid}").exists()}
            if not left:
                _log.info(
                    "GPUs are back",
                    pids=pids,
                    restore_seconds=round(restored - began, 4),
                    unlock_seconds=round(time.monotonic() - restored, 4),
                )
                return
            if alone:
                break  # another snapshot, or a cold start, is the better second try
            time.sleep(_RETRY_SECONDS * (attempt + 1))
        pid, problem = next(iter(left.items()))
        if isinstance(problem, FailureError):
            raise problem
        told = gpu.explain_driver_error("restore", pid, str(problem), driver=self._node.gpu_driver, processes=len(pids))
        if alone:
            raise FailureError(told) from problem
        advice = f"The process cannot continue; its last snapshot can. {told.advice}"
        raise FailureError(Failure("gpu-lost", told.cause, advice)) from problem

    def _restore(self, pid: int, pairs: GpuPairs, *, alone: bool) -> None:
        with self._thread(pid, alone=alone):
            # Asked with the thread running: the driver may wait for it to tell the state.
            state = self._driver.state(pid)
            if state is CudaState.FAILED:
                raise DriverError("the driver says that the process has failed")
            if state is CudaState.CHECKPOINTED:
                self._driver.restore(pid, pairs)

    def _unlock(self, pid: int, *, alone: bool) -> None:
        with self._thread(pid, alone=alone):
            if self._driver.state(pid) is CudaState.LOCKED:
                self._driver.unlock(pid)

    def _thread(self, pid: int, *, alone: bool) -> AbstractContextManager[None]:
        tid = self._driver.restore_thread(pid) if alone else None
        return nullcontext() if tid is None else running_alone(tid)


def with_gpus(facts: NodeFacts, driver: DriverProcess) -> NodeFacts:
    """Add a node's GPUs to its facts, if it has any; a driver that does not answer leaves them unknown."""
    if not driver.is_there:
        return facts
    try:
        inventory = driver.inventory()
    except DriverError as problem:
        _log.warning("NVML does not list this node's GPUs", error=str(problem))
        return facts
    return msgspec.structs.replace(facts, gpu_driver=inventory.driver, gpus=inventory.gpus)


def _at_once(pids: Sequence[int], act: Callable[[int], None], *, to_the_end: bool) -> dict[int, BaseException]:
    """Act on all processes, lane by lane in threads, and answer what went wrong with which.

    ``to_the_end``: whether the rest of a lane has its turn when one of it fails.
    """
    problems: dict[int, BaseException] = {}

    def go(lane: tuple[int, ...]) -> None:
        for pid in lane:
            try:
                act(pid)
            except BaseException as problem:  # noqa: BLE001 -- the caller is told of it
                problems[pid] = problem
                if not to_the_end:
                    return

    lanes = processes.lanes_of(pids)
    if lanes:
        with ThreadPoolExecutor(min(len(lanes), _AT_ONCE)) as threads:
            for done in [threads.submit(go, lane) for lane in lanes]:
                done.result()
    return problems
