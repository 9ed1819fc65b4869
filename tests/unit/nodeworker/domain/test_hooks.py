"""Hooks: what their owner may say, and that they are bounded and stop nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture import container_file, thread_placement
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.capture.hooks import Hooks
from nodeworker.domain import checkpoint_options, hooks
from nodeworker.domain.checkpoint_options import InvalidWishError
from nodeworker.domain.hooks import Hook, HookKind
from woodfrog.protocol.manifest import ThreadPlacement

pytestmark = pytest.mark.timeout(20)


@pytest.mark.parametrize(
    ("text", "hook"),
    [
        ("exec: sh -c 'echo $X'", Hook(HookKind.EXEC, ("sh", "-c", "echo $X"))),
        ("signal: USR1", Hook(HookKind.SIGNAL, ("USR1",))),
        ("signal:sighup", Hook(HookKind.SIGNAL, ("HUP",))),
        ("file: /run/restored", Hook(HookKind.FILE, ("/run/restored",))),
    ],
)
def test_a_hook_is_a_command_a_signal_or_a_file(text: str, hook: Hook) -> None:
    assert hooks.parse(text) == hook


@pytest.mark.parametrize(
    "text",
    ["", "exec:", "exec: 'open", "signal: KILL", "signal: 10", "file: run", "file: /a/../b", "file: /", "rm -rf /", "exec: a" + "a" * 5000],
)  # fmt: skip
def test_anything_else_is_refused_where_it_is_declared(text: str) -> None:
    with pytest.raises(InvalidWishError, match=r"woodfrog\.io/after-restore"):
        checkpoint_options.read({"woodfrog.io/after-restore": text})


def test_a_hook_has_ten_seconds_and_may_have_up_to_a_minute() -> None:
    assert checkpoint_options.read({}).hook_limit_seconds == 10
    assert checkpoint_options.read({"woodfrog.io/hook-limit": "1m"}).hook_limit_seconds == 60
    with pytest.raises(InvalidWishError):
        checkpoint_options.read({"woodfrog.io/hook-limit": "2m"})


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as sleeping:
        yield sleeping
        sleeping.kill()


def hooked(tmp_path: Path, script: str, process: subprocess.Popen[bytes]) -> tuple[Hooks, RuncState]:
    """Hooks that call a script in place of runc, with the words that follow the container's id as its own."""
    runc, criu = tmp_path / "runc", tmp_path / "criu"
    runc.write_text(f'#!/bin/sh\npidfile=$5\necho $$ > "$pidfile"\nshift 6\n{script}\n')
    runc.chmod(0o700)
    state = RuncState("box", tmp_path, process.pid, "running", tmp_path, tmp_path, {}, {}, {})
    return Hooks(Runc(runc, criu)), state


def test_a_command_that_ends_well_leaves_nothing_to_tell(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    made, state = hooked(tmp_path, f'[ "$*" = "get ready" ] && touch {tmp_path}/ready', process)
    assert made.before_dump(hooks.parse("exec: get ready"), state, (), 5) == ()
    assert (tmp_path / "ready").exists()


def test_the_exit_code_of_a_command_is_told_and_not_what_it_printed(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    made, state = hooked(tmp_path, "echo secret; yes | head -c 1000000; exit 3", process)
    told = made.after_restore(hooks.parse("exec: x"), state, (), 1, 5)
    assert told == ("the hook after-restore (exec) failed: exit code 3",)


def test_a_command_that_does_not_end_is_ended(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    made, state = hooked(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 100", process)
    told = made.before_dump(hooks.parse("exec: x"), state, (), 0.5)
    assert told == ("the hook before-dump (exec) failed: it was not done within 0.5 s and was ended",)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_file_is_waited_for_until_the_program_has_removed_it(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    made, state = hooked(tmp_path, "", process)
    hook = Hook(HookKind.FILE, (str(tmp_path / "ready"),))
    told = made.before_dump(hook, state, (), 0.2)
    assert told == (f"the hook before-dump (file) failed: {tmp_path}/ready was not removed within 0.2 s",)
    with subprocess.Popen(["sh", "-c", f"sleep 0.1; rm {tmp_path}/ready"]):
        assert made.before_dump(hook, state, (), 5) == ()


def test_after_a_restore_the_file_holds_the_generation(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    made, state = hooked(tmp_path, "", process)
    assert made.after_restore(Hook(HookKind.FILE, (str(tmp_path / "restored"),)), state, (), 7, 1) == ()
    assert (tmp_path / "restored").read_text() == "7\n"


def test_a_file_on_a_volume_or_behind_a_link_is_not_written_and_other_names_are_left_alone(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "hard").hardlink_to(tmp_path / "kept")
    (tmp_path / "soft").symlink_to("kept")
    for name in ("link/file", "real"):
        with pytest.raises(OSError, match=r"."):
            container_file.put(process.pid, str(tmp_path / name), "x", ())
    for name in ("hard", "soft"):
        container_file.put(process.pid, str(tmp_path / name), "x", ())
    with pytest.raises(OSError, match=r"."):
        container_file.put(process.pid, f"/proc/{process.pid}/oom_score_adj", "1", ())
    with pytest.raises(OSError, match="on a volume"):
        container_file.put(process.pid, str(tmp_path / "real/file"), "x", {str(tmp_path / "real")})
    assert (tmp_path / "kept").read_text() == "kept"
    assert list((tmp_path / "real").iterdir()) == []


def test_a_signal_for_a_process_that_is_gone_is_told(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    made, state = hooked(tmp_path, "", process)
    process.kill()
    process.wait()
    assert "No such process" in made.after_restore(hooks.parse("signal: USR1"), state, (), 1, 1)[0]


def test_processors_of_a_threads_own_are_recorded_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "cpuset.cpus.effective").write_text("0-4095\n")
    program = (
        "import os, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        own = sorted(os.sched_getaffinity(running.pid))
        (found,) = thread_placement.record([running.pid], [str(tmp_path)])
        assert found.cpus == tuple(own)
        os.sched_setaffinity(running.pid, os.sched_getaffinity(0))
        assert thread_placement.apply([found], [running.pid]) == ()
        assert sorted(os.sched_getaffinity(running.pid)) == own
        running.kill()


def test_what_cannot_be_had_here_is_told(process: subprocess.Popen[bytes]) -> None:
    inside = process.pid
    lost = thread_placement.apply(
        [ThreadPlacement(inside, (4000,)), ThreadPlacement(inside, (), 1 << 13 | 4)], [process.pid]
    )
    assert "cannot have any of its processors 4000 here" in lost[0]
    assert "an I/O priority for real time, which is not given back" in lost[0]
    assert thread_placement.apply([ThreadPlacement(1 << 22, (0,))], [process.pid]) == ()


def test_a_thread_that_asked_for_nothing_is_not_recorded(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    usual = sorted(os.sched_getaffinity(process.pid))
    (tmp_path / "cpuset.effective_cpus").write_text(",".join(map(str, usual)))
    assert thread_placement.record([process.pid], [str(tmp_path)]) == ()


def test_a_made_file_can_be_read_by_all(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    container_file.put(process.pid, str(tmp_path / "made"), "1\n", ())
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) & 0o444 == 0o444
