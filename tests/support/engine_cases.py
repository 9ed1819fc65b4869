"""What is promised of Docker and of Podman alike; the test modules of both run these, and add what only one of them has."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support.console import pages_of
from support.engines import CHANGED, COUNT, IMAGE, Engine
from support.stack import Stack, until

INTO_DATA = "i=0; while :; do i=$((i+1)); echo $i >>/data/lines; echo $i $(wc -l </data/lines); sleep 0.1; done"
KILLED = 137
"""The exit code after a stop that was captured: the processes are killed while they are frozen."""


def reasons(stack: Stack, checkpoint_id: str) -> list[str]:
    """Why each start of an id was what it was."""
    chosen = {"incarnation.restore-chosen", "incarnation.cold-start-chosen"}
    return [event["data"]["reason"] for event in stack.history(checkpoint_id) if event["type"] in chosen]


class EngineCases:
    """Every test leaves its containers to the engine's fixture, and has ids of its own."""

    def test_a_new_container_goes_on_where_the_stopped_one_was(self, stack: Stack, engine: Engine) -> None:
        engine.run("one", "goes-on")
        engine.until_counted("one")
        counted = engine.stop("one")
        assert engine.exit_code("one") == KILLED

        engine.run("two", "goes-on", script="exit 9")
        assert engine.until_counted("two")[0] == counted[-1] + 1
        assert engine.cli("exec", "two", "sh", "-c", "echo $CEDANA_CHECKPOINT").stdout == "goes-on\n"
        engine.cli("rm", "-f", "one")
        assert engine.stop("two")[-1] > counted[-1]

    def test_the_same_container_goes_on_when_it_is_started_and_restarted(self, engine: Engine) -> None:
        engine.run("same", "same")
        engine.until_counted("same")
        engine.stop("same")
        engine.cli("start", "same")
        before = engine.until_counted("same", len(engine.numbers("same")) + 5)
        engine.cli("restart", "same")
        assert engine.until_counted("same", len(before) + 5)[0] == 1
        engine.stop("same")

    def test_a_shell_on_a_terminal_keeps_what_was_typed(self, stack: Stack, engine: Engine) -> None:
        def typed(name: str, line: str, awaited: bytes) -> bytes:
            ours, theirs = pty.openpty()
            words = engine.arguments("terminal", "-it", "--name", name, "--network", "none", script="exec sh")
            process = subprocess.Popen(
                engine.command(*words),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=engine.environment,
                start_new_session=True,
            )
            os.close(theirs)
            os.set_blocking(ours, False)
            said = b""

            def heard() -> bool:
                nonlocal said
                try:
                    said += os.read(ours, 4096)
                except (BlockingIOError, OSError):
                    return False
                return awaited in said.replace(line.encode(), b"")

            until(lambda: engine.cli("top", name, check=False).returncode == 0, 20, saying="the shell runs")
            os.write(ours, line.encode() + b"\n")
            until(heard, 20, saying=f"the shell says {awaited!r}")
            engine.cli("stop", name)
            process.wait(20)
            os.close(ours)
            return said

        typed("shell", "x=$((40+2)); echo now $x", b"now 42")
        stack.until_stored("terminal")
        typed("again", "echo then $x", b"then 42")

    def test_the_stop_signal_that_was_chosen_takes_the_final_snapshot_and_another_signal_does_not(
        self, stack: Stack, engine: Engine
    ) -> None:
        engine.run("quits", "quits", "--stop-signal", "SIGQUIT", script=f"trap 'echo 0' USR1; {COUNT}")
        until(lambda: engine.output("quits"), saying="it counts")
        engine.cli("kill", "-s", "USR1", "quits")
        until(lambda: "0" in engine.output("quits"), saying="the signal arrived")
        engine.cli("stop", "quits")
        assert engine.exit_code("quits") == KILLED
        assert len(stack.until_stored("quits")) == 1

    def test_a_snapshot_is_not_restored_over_another_image(self, stack: Stack, engine: Engine) -> None:
        engine.run("old", "image")
        engine.until_counted("old")
        engine.stop("old")
        engine.run("new", "image", image=CHANGED)
        assert engine.until_counted("new")[0] == 1
        first, second = reasons(stack, "image")
        assert first == "no snapshot of this id is known"
        assert "the image changed from" in second
        assert "busybox:1 (sha256:" in second
        assert "busybox:2 (sha256:" in second
        engine.stop("new")

    def test_anonymous_volumes_travel_and_named_ones_and_binds_are_the_new_containers(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        options = ("-v", "/data", "-v", "kept:/kept", "-v", f"{tmp_path}:/bound")
        script = f"exec 7>>/data/held; echo held >&7; touch /kept/mark /bound/mark; {INTO_DATA}"
        engine.run("wrote", "volumes", *options, script=script)
        engine.until_counted("wrote")
        counted = engine.stop("wrote")
        engine.cli("rm", "-v", "wrote")
        (tmp_path / "mark").unlink()

        engine.run("reads", "volumes", *options)
        assert engine.until_counted("reads")[0] == counted[-1] + 1
        assert all(line.split()[0] == line.split()[1] for line in engine.output("reads"))
        assert engine.cli("exec", "reads", "cat", "/data/held", "/proc/1/fd/7").stdout == "held\nheld\n"
        assert engine.cli("exec", "reads", "ls", "/kept").stdout == "mark\n"
        assert list(tmp_path.iterdir()) == []
        engine.stop("reads")

    def test_a_bind_mount_of_a_link_is_restored(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("here\n")
        (tmp_path / "folder").mkdir()
        for name in ("file", "folder"):
            (tmp_path / f"{name}-link").symlink_to(name)
        options = ("-v", f"{tmp_path}/file-link:/file:ro", "-v", f"{tmp_path}/folder-link:/folder")
        engine.run("linked", "links", *options)
        engine.until_counted("linked")
        counted = engine.stop("linked")
        engine.run("relinked", "links", *options)
        assert engine.until_counted("relinked")[0] == counted[-1] + 1
        assert engine.cli("exec", "relinked", "cat", "/file").stdout == "here\n"
        engine.stop("relinked")

    def test_a_restore_that_fails_names_a_log_that_is_there(self, engine: Engine, tmp_path: Path) -> None:
        options = ("-v", f"{tmp_path}:/bound")
        engine.run("holds", "holds", *options, script=f"exec 7>>/bound/held; echo held >&7; {COUNT}")
        engine.until_counted("holds")
        engine.stop("holds")
        (tmp_path / "held").unlink()
        engine.run("cold", "holds", *options)
        engine.until_counted("cold")
        logs = engine.cli("logs", "cold")
        named = re.findall(r"log file: (\S+)", logs.stdout + logs.stderr)
        assert named
        assert all("held" in Path(name).read_text() for name in named)
        engine.cli("stop", "cold")

    def test_what_a_restart_policy_starts_again_goes_on_from_the_last_snapshot(
        self, stack: Stack, engine: Engine
    ) -> None:
        engine.run("policy", "policy", "--restart", "always")
        engine.until_counted("policy")
        stack.cli("checkpoint", "policy")
        pid = int(engine.field("policy", "{{.State.Pid}}"))
        os.kill(pid, signal.SIGKILL)
        until(
            lambda: int(engine.field("policy", "{{.State.Pid}}")) not in {0, pid},
            30,
            saying="the engine starts it again",
        )
        until(lambda: stack.types("policy").count("container.started") == 2, saying="its second start is told")
        engine.cli("stop", "policy")
        numbers = [int(line) for line in engine.output("policy")]
        (again,) = (place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1] + 1)
        # What it did after the snapshot died with it and is done again.
        assert 1 < numbers[again] <= numbers[again - 1]

    def test_a_published_port_goes_on_serving(self, stack: Stack, engine: Engine) -> None:
        serve = "i=0; while :; do i=$((i+1)); echo $i | nc -l -p 80; done"
        engine.run("serves", "ports", "-p", "8080:80", script=serve, network="bridge")
        until(lambda: engine.served(8080) == "1", saying="it serves")
        engine.stop("serves")
        engine.run("serving", "ports", "-p", "8080:80", network="bridge")
        assert until(lambda: engine.served(8080), saying="it serves again") == "2"
        engine.stop("serving")

    def test_ctrl_c_of_a_container_in_the_foreground_takes_the_final_snapshot(self, engine: Engine) -> None:
        words = engine.arguments("ctrl-c", *self.foreground, "--name", "front", "--network", "none")
        process = subprocess.Popen(
            engine.command(*words), env=engine.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        until(lambda: engine.cli("logs", "front", check=False).stdout.count("\n") > 5, saying="it counts")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == KILLED
        engine.run("after", "ctrl-c")
        assert engine.until_counted("after")[0] == int(out.split()[-1]) + 1
        engine.stop("after")

    foreground: tuple[str, ...] = ()
    """Options without which Ctrl-C is not a stop signal."""

    def test_a_variable_asks_for_snapshots_at_an_interval(self, stack: Stack, engine: Engine) -> None:
        engine.run("often", "often", "-e", "WOODFROG_INTERVAL=1s")
        stack.until_stored("often", 2)
        triggers = {row["trigger"] for row in stack.json("get", "snapshots", "often")}
        assert triggers == {"schedule"}
        engine.stop("often")

    def programs(self, engine: Engine) -> dict[str, str]:
        """Return programs of one line, which call those that the pages name with the test's own configuration."""
        raise NotImplementedError

    @pytest.mark.timeout(360)
    def test_the_pages_about_the_engine_work_as_they_are_written(self, engine: Engine) -> None:
        engine.cli("tag", IMAGE, "busybox")
        for page in pages_of(engine.name):
            engine.follow(page, self.programs(engine))
            engine.remove_containers()

    def test_a_stop_while_the_worker_is_away_is_told_with_its_time(self, stack: Stack, engine: Engine) -> None:
        engine.run("left", "left", script=f"trap 'exit 3' TERM; {COUNT}")
        engine.until_counted("left")
        stack.stop()
        try:
            engine.cli("stop", "left")
            ended = engine.field("left", "{{json .State.FinishedAt}}").strip('"')
        finally:
            stack.start()
        assert engine.exit_code("left") == 3
        until(lambda: stack.types("left")[-1] == "container.ended", saying="its end is told")
        failed, gone = stack.history("left")[-2:]
        assert failed["data"]["failure"]["code"] == "worker-away"
        assert gone["occurred_at"][:17] == ended[:17]
        assert "worker-away" in stack.cli("why", "left").stdout
