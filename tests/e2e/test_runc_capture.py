"""Freezing, dumping and killing real containers, as the worker does it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_runtime import COUNTER, Container, LoneRuntime, eventually

from nodeworker.capture.criu import criu
from nodeworker.capture.criu.freezer import Freezer
from woodfrog.protocol.failures import FailureError

pytestmark = [pytest.mark.criu, pytest.mark.timeout(60)]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LoneRuntime]:
    made = LoneRuntime(tmp_path)
    yield made
    made.close()


@pytest.fixture
def counting(runtime: LoneRuntime) -> Container:
    container = runtime.container()
    runtime.worker(create=container.cold)
    container.run()
    return container


def test_a_frozen_container_is_dumped_stays_frozen_and_goes_on_when_thawed(counting: Container) -> None:
    state = counting.state()
    freezer = state.freezer
    freezer.freeze(timeout_seconds=10)
    assert counting.state().status == "paused"
    before = counting.count()
    images = counting.runtime.folder / "images"
    counting.runtime.runc.checkpoint(
        counting.runtime.root, counting.id, image_path=images, work_path=images / "work", leave_running=True
    )
    assert (images / "inventory.img").exists()
    assert freezer.is_frozen()
    time.sleep(0.2)
    assert counting.count() == before
    freezer.thaw()
    assert not freezer.is_frozen()
    eventually(lambda: counting.count() > before, "the container goes on counting")


def test_every_freeze_of_a_busy_shell_finds_a_moment_at_which_it_can_be_dumped(runtime: LoneRuntime) -> None:
    container = runtime.container("i=0; while :; do i=$((i+1)); echo $i >/count; /bin/true; done")
    runtime.worker(create=container.cold)
    container.run()
    for turn in range(12):
        container.dump(f"images-{turn}", end=False)
    before = container.count()
    eventually(lambda: container.count() > before, "the container goes on counting")


def test_kill_all_ends_a_container_without_one_more_step_of_it(counting: Container) -> None:
    freezer = counting.state().freezer
    freezer.freeze()
    before = counting.count()
    freezer.kill_all()
    eventually(lambda: not counting.alive(), "the container is dead")
    assert counting.count() == before


def test_a_freezer_comes_back_from_the_two_words_that_a_journal_keeps(counting: Container) -> None:
    freezer = counting.state().freezer
    freezer.freeze()
    words = (str(freezer.path), freezer.version)
    again = Freezer(Path(words[0]), words[1])
    assert again.is_frozen()
    again.release(timeout_seconds=5)
    assert not again.is_frozen()
    assert set(again.pids()) >= {counting.state().pid}


def test_releasing_a_cgroup_that_is_gone_is_no_error(counting: Container) -> None:
    freezer = counting.state().freezer
    freezer.kill_all()
    eventually(lambda: not counting.alive(), "the container is dead")
    counting.runtime.runc.delete(counting.runtime.root, counting.id)
    freezer.release()
    assert freezer.pids() == ()


def test_a_dump_that_cannot_be_taken_is_explained_and_leaves_the_container_frozen_but_unharmed(
    counting: Container, tmp_path: Path
) -> None:
    counting.conf.write_text("no-such-option\n")
    freezer = counting.state().freezer
    freezer.freeze()
    with pytest.raises(FailureError) as problem:
        counting.runtime.runc.checkpoint(
            counting.runtime.root,
            counting.id,
            image_path=tmp_path / "images",
            work_path=tmp_path / "work",
            leave_running=True,
        )
    assert problem.value.failure.code == "criu-config"
    before = counting.count()
    freezer.thaw()
    eventually(lambda: counting.count() > before, "the container goes on counting")


def test_a_dump_is_given_up_after_its_time_limit_and_the_container_goes_on(counting: Container, tmp_path: Path) -> None:
    freezer = counting.state().freezer
    freezer.freeze()
    before = counting.count()
    with pytest.raises(FailureError) as problem:
        counting.runtime.runc.checkpoint(
            counting.runtime.root,
            counting.id,
            image_path=tmp_path / "images",
            work_path=tmp_path / "work",
            leave_running=True,
            timeout_seconds=0.03,
        )
    assert problem.value.failure.code == "dump-timeout"
    freezer.release(timeout_seconds=20)
    eventually(lambda: counting.count() > before, "the container goes on counting")
    assert counting.alive()


def test_stopped_tasks_are_told_by_their_pids_inside_the_container(runtime: LoneRuntime) -> None:
    container = runtime.container(f"sleep 1000 & kill -STOP $!; echo $! >/stopped; {COUNTER}")
    runtime.worker(create=container.cold)
    container.run()
    told = criu.stopped_pids(container.state().freezer.pids())
    assert told == (int((container.upper / "stopped").read_text()),)


def test_a_task_that_job_control_stopped_is_still_stopped_after_a_dump_that_left_it_running(
    runtime: LoneRuntime,
) -> None:
    stops_itself = "trap 'echo woken >/woken' CONT; kill -STOP $(sh -c 'echo $PPID'); while :; do sleep 0.1; done"
    container = runtime.container(f"({stops_itself}) & {COUNTER}")
    runtime.worker(create=container.cold)
    container.run()
    pids = container.state().freezer.pids
    before = eventually(lambda: criu.stopped_pids(pids()), "the task has stopped itself")
    container.dump(end=False)
    count = container.count()
    eventually(lambda: container.count() > count, "the rest goes on")
    assert criu.stopped_pids(pids()) == before
    assert not (container.upper / "woken").exists()


def test_the_state_says_where_the_container_lies_and_how_it_fares(counting: Container) -> None:
    state = counting.state()
    assert state.status == "running"
    assert state.bundle == counting.bundle
    assert state.rootfs == counting.rootfs
    assert state.criu_config == counting.conf
    os.kill(state.pid, 9)
    eventually(lambda: counting.state().status == "stopped", "runc's state says so")


def test_an_unknown_container_is_a_clear_failure(runtime: LoneRuntime) -> None:
    with pytest.raises(FailureError) as problem:
        runtime.runc.state(runtime.root, "nobody")
    assert problem.value.failure.code == "container-unknown"
    assert not runtime.runc.is_alive(runtime.root, "nobody")
