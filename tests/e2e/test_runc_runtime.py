"""The OCI runtime with real runc and CRIU, and a worker that answers what each story needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.lone_runtime import COUNTER, Container, LoneRuntime, eventually, runc_binary

from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.runtime_api import NotDumped, Refused, Stopped
from woodfrog.service import procfs

pytestmark = [pytest.mark.criu, pytest.mark.timeout(60)]

REFUSAL = Failure("invalid-id", "the id 'a/b' contains '/'", "Use letters and digits.")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LoneRuntime]:
    made = LoneRuntime(tmp_path)
    yield made
    made.close()


def logged(runtime: LoneRuntime) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runtime.log.read_text().splitlines()]


def tasks(container: Container) -> dict[int, str]:
    """State letters by the pids inside the container."""
    states = {}
    for pid in container.state().freezer.pids():
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        states[int(fields["NSpid"].split()[-1])] = fields["State"].strip()[0]
    return states


def uts_name(container: Container) -> str:
    pid = container.state().pid
    command = ["nsenter", f"--uts=/proc/{pid}/ns/uts", "uname", "-n"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def dumped(runtime: LoneRuntime, command: str = COUNTER, **settings: Any) -> tuple[Container, Path]:
    container = runtime.container(command, **settings)
    runtime.worker(create=container.cold)
    container.run()
    return container, container.dump()


def test_a_cold_container_is_created_started_stopped_and_deleted_with_the_worker_told(runtime: LoneRuntime) -> None:
    container = runtime.container()

    def stop(ask: Any) -> Stopped:
        container.state().freezer.kill_all()
        return Stopped(SnapshotId("one"))

    worker = runtime.worker(create=container.cold, stop=stop)
    assert container.create() == 0, container.said()
    assert container.state().status == "created"
    assert container.count() == 0
    assert container.call("start", container.id).returncode == 0
    eventually(lambda: container.count() > 1, "it counts")
    assert container.state().criu_config == container.conf
    assert container.call("kill", container.id, "15").returncode == 0
    eventually(lambda: not container.alive(), "it is dead")
    assert container.call("delete", container.id).returncode == 0
    assert worker.tags() == ["create", "started", "stop", "deleted"]
    created = worker.asked[0]
    assert (created.bundle, created.runc_root) == (str(container.bundle), str(runtime.root))
    assert (created.container_id, created.checkpoint_id) == (container.id, "trainer")
    assert not container.exists()
    assert not container.marker.parent.exists()


def test_a_restored_container_stands_still_after_create_and_goes_on_at_start(runtime: LoneRuntime) -> None:
    first, images = dumped(runtime)
    before = first.count()
    second = runtime.container(on=first)
    worker = runtime.worker(create=lambda _: second.restored(images))
    assert second.create() == 0, second.said()
    assert second.pid_file.read_text() == str(second.state().pid)
    assert set(tasks(second).values()) == {"T"}
    assert first.count() == before
    done = second.call("start", second.id)
    assert done.returncode == 0, done.stderr
    eventually(lambda: first.count() > before, "it counts on from where it was")
    assert first.count() < before + 1000
    assert worker.tags() == ["create", "started"]
    assert second.call("start", second.id).returncode != 0, "a second start is an error, as runc has it"


@contextmanager
def pipe(runtime: LoneRuntime) -> Iterator[Callable[[], str]]:
    """The pipe of a worker that hears the shell part; gives what was said."""
    path = runtime.run_dir / "tells"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def heard() -> str:
        with suppress(BlockingIOError):
            return os.read(descriptor, 4096).decode()
        return ""

    yield heard
    os.close(descriptor)


def restored(runtime: LoneRuntime) -> tuple[Container, Container]:
    """A container that was restored and waits for its start, after the one that it resumes from."""
    first, images = dumped(runtime, f"sleep 1000 & {COUNTER}")
    second = runtime.container(on=first)
    runtime.worker(create=lambda _: second.restored(images))
    assert second.create() == 0, second.said()
    return first, second


def test_a_start_that_takes_no_thinking_is_the_shells(runtime: LoneRuntime) -> None:
    with pipe(runtime) as heard:
        first, second = restored(runtime)
        announced = ["create", second.id, str(runtime.root), str(second.bundle), "CEDANA_CHECKPOINT"]
        assert heard().splitlines()[-1].split("\t") == announced, "the worker may begin before Python asks"
        before = first.count()
        runtime.write(python=Path("/bin/false"))
        assert second.call("start", second.id).returncode == 0
        eventually(lambda: first.count() > before, "it counts on from where it was")
        assert "T" not in tasks(second).values()
        assert eventually(heard, "the worker is told") == f"started\t{second.id}\n"
        runtime.write()
        assert second.call("start", second.id).returncode != 0, "a second start is an error, as runc has it"
        stopping = runtime.worker(stop=lambda _: NotDumped(REFUSAL))
        assert second.call("kill", second.id, "TERM").returncode == 0
        assert stopping.tags() == ["stop"], "the stop signal knows that it was started"
        second.call("kill", second.id, "KILL")
        eventually(lambda: not second.alive(), "it is dead")
        assert second.call("delete", second.id).returncode == 0
        assert not second.marker.parent.exists()


def test_a_pipe_that_nobody_reads_keeps_no_container_from_starting(runtime: LoneRuntime) -> None:
    with pipe(runtime) as heard:
        full = os.open(runtime.run_dir / "tells", os.O_RDWR | os.O_NONBLOCK)
        first, second = restored(runtime)
        with suppress(BlockingIOError):
            while True:
                os.write(full, bytes(4096))
        os.close(full)
        before = first.count()
        assert second.call("start", second.id).returncode == 0
        eventually(lambda: first.count() > before, "it counts on from where it was")
        eventually(lambda: "started" in heard(), "it is told once somebody reads")


def test_a_restored_container_that_died_before_its_start_is_not_started(runtime: LoneRuntime) -> None:
    with pipe(runtime) as heard:
        _, second = restored(runtime)
        heard()
        assert second.call("kill", second.id, "KILL").returncode == 0
        eventually(lambda: not second.alive(), "it is dead")
        started = second.call("start", second.id)
        assert started.returncode == 1
        assert "has stopped" in started.stderr
        assert heard() == ""


def test_a_task_that_job_control_stopped_stays_stopped_after_a_restore(runtime: LoneRuntime) -> None:
    command = f"sleep 1000 & kill -STOP $!; echo $! >/stopped; {COUNTER}"
    first, images = dumped(runtime, command)
    stopped = int((first.upper / "stopped").read_text())
    before = first.count()
    second = runtime.container(on=first)
    runtime.worker(create=lambda _: second.restored(images, (stopped,)))
    assert second.create() == 0, second.said()
    assert second.call("start", second.id).returncode == 0
    eventually(lambda: first.count() > before, "the rest goes on")
    assert tasks(second)[stopped] == "T"


def test_a_restored_container_has_the_host_name_of_its_own_bundle(runtime: LoneRuntime) -> None:
    first, images = dumped(runtime, hostname="before")
    second = runtime.container(on=first, hostname="after")
    runtime.worker(create=lambda _: second.restored(images))
    assert second.create() == 0, second.said()
    assert second.call("start", second.id).returncode == 0
    assert uts_name(second) == "after"


def test_a_sandbox_keeps_its_host_name_when_a_container_is_restored_into_it(runtime: LoneRuntime) -> None:
    first, images = dumped(runtime, hostname="before")
    sandbox = runtime.container("exec sleep 1000", checkpoint_id=None, hostname="sandbox")
    assert sandbox.create() == 0, sandbox.said()
    assert sandbox.call("start", sandbox.id).returncode == 0
    second = runtime.container(on=first)
    path = second.bundle / "config.json"
    config = json.loads(path.read_text())
    del config["hostname"]
    next(space for space in config["linux"]["namespaces"] if space["type"] == "uts")["path"] = (
        f"/proc/{sandbox.state().pid}/ns/uts"
    )
    path.write_text(json.dumps(config))
    runtime.worker(create=lambda _: second.restored(images))
    assert second.create() == 0, second.said()
    assert second.call("start", second.id).returncode == 0
    assert uts_name(sandbox) == uts_name(second) == "sandbox"


def test_a_refusal_is_in_the_log_file_and_on_standard_error_and_leaves_nothing(runtime: LoneRuntime) -> None:
    container = runtime.container(checkpoint_id="a/b")
    runtime.worker(create=lambda _: Refused(REFUSAL))
    assert container.create() == 1
    assert REFUSAL.cause in container.said()
    last = logged(runtime)[-1]
    assert last["level"] == "error"
    assert REFUSAL.cause in last["msg"]
    assert REFUSAL.advice in last["msg"]
    assert last["time"].endswith("Z")
    assert not container.exists()
    assert not container.marker.parent.exists()


def test_a_snapshot_that_cannot_be_restored_is_reported_and_the_start_falls_back_to_cold(runtime: LoneRuntime) -> None:
    first, images = dumped(runtime)
    core = next(images.glob("core-*.img"))
    core.write_bytes(core.read_bytes()[:20])
    (first.rootfs / "count").unlink()
    second = runtime.container(on=first)
    worker = runtime.worker(create=lambda _: second.restored(images), restore_failed=second.cold)
    second.run_on(first)
    assert worker.tags() == ["create", "restore-failed", "started"]
    assert worker.asked[1].message
    assert "error" not in {line["level"] for line in logged(runtime)}


def test_without_a_worker_create_fails_clearly_after_its_bound_and_leaves_nothing(runtime: LoneRuntime) -> None:
    container = runtime.container()
    assert container.create() == 1
    assert "worker of this node was not there within 0.2 s" in container.said()
    assert "worker of this node was not there" in logged(runtime)[-1]["msg"]
    assert not container.exists()
    assert not container.marker.parent.exists()


def test_a_worker_that_never_answers_does_not_hold_create_for_ever(runtime: LoneRuntime) -> None:
    runtime.write(answer_seconds=0.1)
    container = runtime.container()
    runtime.worker(create=lambda _: None)
    assert container.create() == 1
    assert "gave no answer" in container.said()
    assert not container.marker.parent.exists()


def test_create_asks_again_when_the_worker_dies_over_it(runtime: LoneRuntime) -> None:
    container = runtime.container()
    answers: list[Any] = [lambda: None, container.cold]
    worker = runtime.worker(create=lambda _: answers.pop(0)())
    container.run()
    assert worker.tags() == ["create", "create", "started"]


def test_start_kill_and_delete_go_on_without_a_worker(runtime: LoneRuntime) -> None:
    container = runtime.container(f"trap 'exit 0' TERM; {COUNTER}")
    worker = runtime.worker(create=container.cold)
    assert container.create() == 0, container.said()
    worker.close()
    assert container.call("start", container.id).returncode == 0
    eventually(lambda: container.count() > 1, "it counts")
    assert container.call("kill", container.id, "SIGTERM").returncode == 0
    eventually(lambda: not container.alive(), "the signal arrived")
    assert container.call("delete", container.id).returncode == 0
    assert not container.exists()
    assert not container.marker.exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_worker_that_dies_during_the_stop_leaves_no_container_frozen_and_swallows_no_signal(
    runtime: LoneRuntime, frozen: bool
) -> None:
    container = runtime.container(f"trap 'echo bye >/bye; exit 0' TERM; {COUNTER}")

    def die(_: Any) -> None:
        if frozen:
            container.state().freezer.freeze()

    runtime.worker(create=container.cold, stop=die)
    container.run()
    assert container.call("kill", container.id, "TERM").returncode == 0
    eventually((container.upper / "bye").exists, "the program handled the signal")
    eventually(lambda: not container.alive(), "it ended by itself")


def test_a_dump_that_outlived_its_worker_is_not_thawed_under_its_hands(runtime: LoneRuntime) -> None:
    container = runtime.container(f"trap 'echo bye >/bye; exit 0' TERM; {COUNTER}")
    orphans: list[subprocess.Popen[bytes]] = []

    def die(_: Any) -> None:
        container.state().freezer.freeze()
        images = runtime.folder / "orphan"
        images.mkdir()
        command = [runc_binary(), "--root", runtime.root, "checkpoint", "--leave-running"]
        command += ["--image-path", images, "--work-path", images, container.id]
        orphans.append(subprocess.Popen(command, env=runtime.runc.environment()))

    runtime.worker(create=container.cold, stop=die)
    container.run()
    assert container.call("kill", container.id, "TERM").returncode == 0
    assert orphans[0].wait(20) == 0, "the dump came to its own end"
    eventually((container.upper / "bye").exists, "the program handled the signal")
    eventually(lambda: not container.alive(), "it ended by itself")


def test_the_signal_is_passed_on_when_no_dump_could_be_taken(runtime: LoneRuntime) -> None:
    container = runtime.container(f"trap 'exit 0' TERM; {COUNTER}")
    failure = Failure("disk-full", "the disk is full", "Free some.")
    worker = runtime.worker(create=container.cold, stop=lambda _: NotDumped(failure))
    container.run()
    assert container.call("kill", container.id).returncode == 0, "without a name the signal is TERM"
    eventually(lambda: not container.alive(), "the signal arrived")
    assert "stop" in worker.tags()
    assert "the disk is full" in logged(runtime)[-1]["msg"]


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        (("TERM",), True),
        (("--all", "ID", "SIGTERM"), True),
        (("QUIT",), True),
        (("SIGUSR1",), False),
        (("KILL",), False),
        (("9",), False),
    ],
)
def test_only_the_stop_signals_ask_for_a_final_dump(runtime: LoneRuntime, words: tuple[str, ...], asks: bool) -> None:
    annotations = {"org.opencontainers.image.stopSignal": "SIGQUIT"}
    container = runtime.container(f"trap '' USR1; {COUNTER}", annotations=annotations)
    worker = runtime.worker(create=container.cold, stop=lambda _: Stopped(SnapshotId("one")))
    container.run()
    placed = [container.id if word == "ID" else word for word in words]
    arguments = placed if container.id in placed else [container.id, *placed]
    assert container.call("kill", *arguments).returncode == 0
    assert ("stop" in worker.tags()) is asks


def test_an_interrupted_create_leaves_nothing_behind(runtime: LoneRuntime) -> None:
    container = runtime.container()
    runtime.write(worker_wait_seconds=30)
    creating = container.start_create()
    eventually(container.marker.exists, "create waits for the worker")
    creating.send_signal(signal.SIGTERM)
    assert creating.wait(20) == 128 + signal.SIGTERM
    assert "interrupted by signal 15" in container.said()
    assert not container.marker.parent.exists()
    assert not container.exists()


def test_so_does_one_whose_caller_is_gone_with_what_it_would_have_read(runtime: LoneRuntime) -> None:
    container = runtime.container()
    runtime.write(worker_wait_seconds=30)
    reading, writing = os.pipe()
    creating = container.start_create(writing)
    os.close(writing)
    eventually(container.marker.exists, "create waits for the worker")
    os.close(reading)
    creating.send_signal(signal.SIGTERM)
    assert creating.wait(20) == 128 + signal.SIGTERM
    assert not container.marker.parent.exists()
    assert not container.exists()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.04, 0.08])
def test_an_interrupted_restore_leaves_no_mount_behind(runtime: LoneRuntime, delay: float) -> None:
    first, images = dumped(runtime)
    second = runtime.container(on=first)
    runtime.worker(create=lambda _: second.restored(images))
    creating = second.start_create()
    eventually(second.exists, "runc restore is under way")
    time.sleep(delay)
    creating.send_signal(signal.SIGTERM)
    creating.wait(20)
    second.call("delete", "--force", second.id)
    assert not second.exists()
    places = (mount.place for mount in procfs.mounts())
    assert [place for place in places if "cgyard" in place and place.startswith(str(runtime.folder))] == []


def test_a_name_under_two_roots_is_refused_while_the_first_runs_which_goes_on_protected(
    runtime: LoneRuntime, tmp_path: Path
) -> None:
    container = runtime.container()
    worker = runtime.worker(create=container.cold)
    container.run()
    words = ["--root", str(tmp_path / "other"), "create", "--bundle", str(container.bundle), container.id]
    other = subprocess.run([str(runtime.path), *words], capture_output=True, text=True, timeout=20, check=False)
    assert other.returncode == 1
    assert f"container {container.id} runs under runc's root {runtime.root}" in other.stderr
    assert container.marker.exists()
    assert worker.tags() == ["create", "started"]
    assert container.call("delete", "--force", container.id).returncode == 0
    again = runtime.container()
    assert again.create() == 0


def test_a_killed_create_is_cleaned_up_by_the_delete_that_follows(runtime: LoneRuntime) -> None:
    first, images = dumped(runtime)
    second = runtime.container(on=first)
    worker = runtime.worker(create=lambda _: second.restored(images))
    creating = second.start_create()
    eventually(second.exists, "runc restore is under way")
    creating.kill()
    creating.wait(10)
    done = second.call("delete", "--force", second.id)
    assert done.returncode == 0, done.stderr
    assert worker.tags() == ["create", "deleted"]
    assert not second.exists()
    assert not second.marker.exists()
    cgroup = Path("/sys/fs/cgroup/freezer/woodfrog-test") / second.id
    assert not cgroup.exists()
    assert (first.rootfs / "bin/sh").exists()


def test_a_second_create_of_a_living_container_harms_it_not(runtime: LoneRuntime) -> None:
    container = runtime.container()
    runtime.worker(create=container.cold)
    container.run()
    assert container.create() != 0
    assert container.marker.exists()
    before = container.count()
    eventually(lambda: container.count() > before, "it goes on")


def test_an_annotation_of_the_pod_never_names_the_criu_configuration(runtime: LoneRuntime) -> None:
    container = runtime.container(annotations={"org.criu.config": "/etc/evil.conf", "kept": "yes"})
    runtime.worker(create=container.cold)
    container.run()
    assert container.state().annotations["org.criu.config"] == str(container.conf)
    assert container.state().annotations["kept"] == "yes"


def test_a_marker_of_another_root_is_not_this_containers(runtime: LoneRuntime, tmp_path: Path) -> None:
    container = runtime.container()
    worker = runtime.worker(create=container.cold)
    container.run()
    runc = [str(runtime.path), "--root", str(tmp_path / "other"), "delete", "--force", container.id]
    assert subprocess.run(runc, capture_output=True, timeout=20, check=False).returncode == 0
    assert container.marker.exists()
    assert worker.tags() == ["create", "started"]


def test_an_unprotected_container_lives_without_any_worker(runtime: LoneRuntime) -> None:
    container = runtime.container(checkpoint_id=None)
    container.run()
    assert not container.marker.parent.exists()
    assert container.call("kill", container.id, "KILL").returncode == 0
    eventually(lambda: not container.alive(), "it is dead")
    assert container.call("delete", container.id).returncode == 0


def test_a_child_of_the_runtime_has_the_signals_that_its_caller_had(runtime: LoneRuntime) -> None:
    container = runtime.container(f"grep SigIgn /proc/self/status >/ignored; {COUNTER}")
    runtime.worker(create=container.cold)
    container.run()
    ignored = int((container.upper / "ignored").read_text().split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))
