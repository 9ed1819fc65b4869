"""What any driver must do for us, whether NVIDIA's or the stand-in: cases that both are held to.

Each case is given a driver, a process that runs on GPUs, and their UUIDs; it leaves the process running.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest

from nodeworker.capture.gpu.driver import Driver, DriverError
from nodeworker.domain.gpu import CudaState

Case = Callable[[Driver, int, Sequence[str]], None]
LOCK_SECONDS = 20.0


def goes_through_its_states_and_back(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    assert driver.state(pid) is CudaState.RUNNING
    driver.lock(pid, LOCK_SECONDS)
    assert driver.state(pid) is CudaState.LOCKED
    driver.checkpoint(pid)
    assert driver.state(pid) is CudaState.CHECKPOINTED
    driver.restore(pid, ())
    assert driver.state(pid) is CudaState.LOCKED
    driver.unlock(pid)
    assert driver.state(pid) is CudaState.RUNNING


def is_locked_and_unlocked_without_a_checkpoint(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    driver.lock(pid, LOCK_SECONDS)
    driver.unlock(pid)
    assert driver.state(pid) is CudaState.RUNNING


def refuses_steps_out_of_order_and_stays_where_it_is(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    for step in (driver.checkpoint, driver.unlock, lambda pid: driver.restore(pid, ())):
        with pytest.raises(DriverError):
            step(pid)
    assert driver.state(pid) is CudaState.RUNNING


def has_a_thread_for_restores_in_the_process(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    thread = driver.restore_thread(pid)
    assert thread is not None
    assert str(thread) in os.listdir(f"/proc/{pid}/task")  # noqa: PTH208


def knows_that_other_processes_do_not_use_cuda(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    assert driver.restore_thread(os.getppid()) is None


def holds_no_device_while_checkpointed(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    def devices() -> list[str]:
        held = (os.path.realpath(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        return [path for path in held if "/nvidia" in path and "/dev/" in path]

    assert devices()
    driver.lock(pid, LOCK_SECONDS)
    driver.checkpoint(pid)
    assert not devices()
    driver.restore(pid, ())
    driver.unlock(pid)
    assert devices()


def is_restored_by_a_map_of_all_its_gpus(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    driver.lock(pid, LOCK_SECONDS)
    driver.checkpoint(pid)
    driver.restore(pid, [(uuid, uuid) for uuid in gpus])
    driver.unlock(pid)
    assert driver.state(pid) is CudaState.RUNNING


def refuses_a_map_that_lacks_its_gpu(driver: Driver, pid: int, gpus: Sequence[str]) -> None:
    other = "GPU-00000000-1111-2222-3333-444444444444"
    driver.lock(pid, LOCK_SECONDS)
    driver.checkpoint(pid)
    with pytest.raises(DriverError):
        driver.restore(pid, [(other, gpus[0])])
    assert driver.state(pid) is CudaState.CHECKPOINTED
    driver.restore(pid, ())
    driver.unlock(pid)


CASES: tuple[Case, ...] = (
    goes_through_its_states_and_back,
    is_locked_and_unlocked_without_a_checkpoint,
    refuses_steps_out_of_order_and_stays_where_it_is,
    has_a_thread_for_restores_in_the_process,
    knows_that_other_processes_do_not_use_cuda,
    holds_no_device_while_checkpointed,
    is_restored_by_a_map_of_all_its_gpus,
    refuses_a_map_that_lacks_its_gpu,
)
