"""The runtime's shell part, and the command lines that it and the slow path must understand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeworker.runtime.commandline import Call
from nodeworker.runtime.container import adapt, variable
from nodeworker.runtime.install import write_runtime
from nodeworker.runtime.stop_signal import number as signal_number

pytestmark = pytest.mark.timeout(20)

ID = "c1"


class Desk:
    """A written-out runtime whose runc and Python only note with what they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "a bundle"
        self.bundle.mkdir()
        self.noted = folder / "noted"
        for name in ("runc", "python"):
            self.tool(name)
        self.runtime = write_runtime(
            folder / "bin" / "runtime",
            run_dir=folder / "run dir",
            runc=folder / "runc",
            criu=folder / "criu",
            python=folder / "python",
            variable="KEEP_ME",
        )

    def tool(self, name: str) -> None:
        path = self.folder / name
        path.write_text(
            f"#!/bin/sh\nfor word in {name} \"$@\"; do printf '%s\\0' \"$word\"; done >'{self.noted}'\nexit 7\n"
        )
        path.chmod(0o755)

    def config(self, environment: list[str], bundle: Path | None = None) -> None:
        text = json.dumps({"process": {"env": environment}}, indent=None)
        ((bundle or self.bundle) / "config.json").write_text(text)

    def mark(self) -> None:
        folder = self.folder / "run dir" / "containers" / ID
        folder.mkdir(parents=True)
        (folder / "marker").write_text("{}")

    def call(self, *words: str) -> tuple[str, list[str]]:
        done = subprocess.run(["dash", self.runtime, *words], cwd=self.bundle, timeout=10, check=False)
        assert done.returncode == 7
        tool, *arguments = self.noted.read_text().split("\0")[:-1]
        return tool, arguments


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--version"],
        ["--root", "/r", "state", ID],
        ["--root=/r", "--log", "create", "--log-format=json", "list", "-q"],
        ["--root", "/r", "--systemd-cgroup", "create", "--bundle", "BUNDLE", "--pid-file", "a b", ID],
        ["--rootless", "true", "create", "-b", "BUNDLE", "--no-pivot", "--no-new-keyring", "--preserve-fds", "2", ID],
        ["create", ID],
        ["start", ID],
        ["kill", "--all", ID, "15"],
        ["kill", ID],
        ["delete", "--force", ID],
        ["delete", "../run dir/containers/x"],
        ["exec", "--process", "p.json", ID, "kill", "x"],
        ["run", "--bundle", "BUNDLE", ID],
        ["update", "--resources", "-", ID, "", "*", "a'b\"c\\d"],
    ],
)
def test_an_unprotected_containers_call_reaches_runc_word_for_word(desk: Desk, words: list[str]) -> None:
    desk.config(["PATH=/bin", "OTHER=KEEP_ME"])
    placed = [str(desk.bundle) if word == "BUNDLE" else word for word in words]
    assert desk.call(*placed) == ("runc", placed)


@pytest.mark.parametrize(
    "words",
    [
        ["--root", "/r", "--log", "/l", "create", "--bundle", "BUNDLE", "--pid-file", "p", ID],
        ["--root=/r", "create", "--bundle=BUNDLE", ID],
        ["-root", "create", "create", "-b", "BUNDLE", ID],
        ["create", "--console-socket", "--bundle", "--pid-file", "-b", ID],
        ["create", ID],
    ],
)
def test_a_create_of_a_bundle_with_the_variable_goes_to_the_slow_path(desk: Desk, words: list[str]) -> None:
    desk.config(["PATH=/bin", "KEEP_ME=trainer"])
    placed = [word.replace("BUNDLE", str(desk.bundle)) for word in words]
    tool, arguments = desk.call(*placed)
    assert tool == "python"
    assert arguments[:3] == ["-I", "-S", "-c"]
    assert arguments[4:8] == [str(desk.folder / name) for name in ("run dir", "runc", "criu")] + ["KEEP_ME"]
    assert arguments[10:] == placed


@pytest.mark.parametrize(
    ("words", "tool"),
    [
        (["--root", "/r", "start", ID], "python"),
        (["kill", ID, "15"], "python"),
        (["kill", "--all", ID], "python"),
        (["kill", ID, "KILL"], "runc"),
        (["kill", "-a", ID, "SIGKILL"], "runc"),
        (["kill", ID, "9"], "runc"),
        (["delete", "--force", ID], "python"),
        (["state", ID], "runc"),
        (["start", "another"], "runc"),
    ],
)
def test_a_marked_container_is_known_to_start_kill_and_delete(desk: Desk, words: list[str], tool: str) -> None:
    desk.mark()
    called, arguments = desk.call(*words)
    assert called == tool
    assert arguments[-len(words) :] == words


def test_without_its_python_the_runtime_still_stops_and_deletes_but_refuses_to_create(desk: Desk) -> None:
    desk.mark()
    desk.config(["KEEP_ME=trainer"])
    (desk.folder / "python").unlink()
    for words in (["kill", ID, "15"], ["delete", ID], ["start", ID]):
        assert desk.call(*words) == ("runc", words)
    log = desk.folder / "log.json"
    command = ["dash", desk.runtime, "--log", log, "--log-format", "json", "create", "--bundle", desk.bundle, ID]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert "cannot create protected containers" in done.stderr
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "install Woodfrog again" in line["msg"]


EXEC = ("--root", "/run/x", "exec", "--process", "/p.json", "--detach", "--pid-file", "/pid", ID)


@pytest.mark.parametrize("frozen", ["FROZEN", "FREEZING", "1"])
def test_an_exec_waits_until_the_container_no_longer_stands_still(desk: Desk, frozen: str) -> None:
    desk.mark()
    state = desk.folder / "freezer state"
    state.write_text(f"{frozen}\n")
    (desk.folder / "run dir/containers" / ID / "frozen").write_text(f"{state}\n")
    call = subprocess.Popen(["dash", desk.runtime, *EXEC], cwd=desk.bundle)
    with pytest.raises(subprocess.TimeoutExpired):
        call.wait(1.5)
    assert not desk.noted.exists()
    (desk.folder / "run dir/containers" / ID / "frozen").unlink()
    assert call.wait(10) == 7
    assert desk.noted.read_text().split("\0")[:-1] == ["runc", *EXEC]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("state", ["THAWED", None])
def test_what_a_killed_worker_left_behind_delays_an_exec_for_a_moment_only(desk: Desk, state: str | None) -> None:
    desk.mark()
    if state is not None:
        (desk.folder / "state").write_text(f"{state}\n")
    (desk.folder / "run dir/containers" / ID / "frozen").write_text(f"{desk.folder / 'state'}\n")
    assert subprocess.run(["dash", desk.runtime, *EXEC], cwd=desk.bundle, timeout=50, check=False).returncode == 7
    assert desk.noted.read_text().split("\0")[:-1] == ["runc", *EXEC]


def test_an_exec_without_an_id_is_left_to_runc(desk: Desk) -> None:
    assert desk.call("exec", "--process", "/p.json") == ("runc", ["exec", "--process", "/p.json"])


def test_a_variable_that_only_appears_in_the_arguments_is_no_protection(tmp_path: Path) -> None:
    spec = {"process": {"args": ["sh", "-c", '"KEEP_ME=x"'], "env": ["PATH=/bin", "KEEP_ME2=y"]}}
    assert variable(spec, "KEEP_ME") is None
    spec["process"]["env"] += ["KEEP_ME=first", "KEEP_ME="]
    assert variable(spec, "KEEP_ME") == ""


def test_writing_the_runtime_replaces_the_old_one_and_leaves_nothing_else(desk: Desk) -> None:
    before = desk.runtime.stat().st_ino
    again = write_runtime(
        desk.runtime,
        run_dir=Path("/run/it's"),
        runc=Path("/usr/sbin/runc"),
        criu=Path("/opt/criu"),
        python=Path(sys.executable),
    )
    assert again.stat().st_ino != before
    assert os.access(again, os.X_OK)
    assert [path.name for path in again.parent.iterdir()] == [again.name]
    assert subprocess.run(["dash", "-n", again], timeout=10, check=False).returncode == 0


@pytest.mark.parametrize(
    "wrong", [{"criu": Path("/opt/criu-4")}, {"runc": Path("runc")}, {"variable": "A B"}, {"variable": "$(x)"}]
)
def test_a_runtime_that_could_not_work_is_not_written(tmp_path: Path, wrong: dict[str, object]) -> None:
    given = {"run_dir": Path("/run/w"), "runc": Path("/r"), "criu": Path("/criu"), "python": Path("/p"), **wrong}
    with pytest.raises(ValueError, match=r"absolute|called|variable"):
        write_runtime(tmp_path / "runtime", **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_restore_gets_what_create_was_given_as_far_as_it_knows_it() -> None:
    words = ["--root=/r", "--log", "/l", "--log-format", "json", "--systemd-cgroup", "--rootless", "false", "create"]
    words += ["--bundle", "/b", "--pid-file=/p", "--console-socket", "/c", "--no-pivot", "--no-new-keyring"]
    call = Call([*words, "--preserve-fds", "3", ID])
    assert (call.root, call.bundle, call.container_id) == ("/r", "/b", ID)
    assert (call.flag("log"), call.flag("log-format")) == ("/l", "json")
    assert call.restore(bundle="/b", image_path="/i", work_path="/w", log="/own") == [
        *("--root=/r", "--systemd-cgroup", "--rootless=false", "--log=/own", "--log-format=json"),
        *("restore", "--detach", "--bundle=/b", "--console-socket=/c", "--pid-file=/p", "--no-pivot"),
        *("--image-path=/i", "--work-path=/w", "--ext-unix-sk", "--file-locks", ID),
    ]


def test_flags_may_stand_behind_the_id_as_urfave_allows() -> None:
    call = Call(["kill", ID, "TERM", "--all"])
    assert (call.positional, call.options) == ([ID, "TERM"], {"all": None})


@pytest.mark.parametrize(
    ("text", "number"),
    [("15", 15), ("TERM", 15), ("SIGTERM", 15), ("sigquit", 3), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("NONSENSE", 0)],
)
def test_signals_are_read_as_runc_reads_them(text: str, number: int) -> None:
    assert signal_number(text) == number


def test_the_annotation_is_written_as_a_whole_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"annotations": {"org.criu.config": "/evil", "a": "ä"}, "big": 2**63, "root": {"path": "r"}})
    )
    path.chmod(0o640)
    adapt(str(tmp_path), "/run/criu.conf")
    spec = json.loads(path.read_text())
    assert spec == {"annotations": {"org.criu.config": "/run/criu.conf", "a": "ä"}, "big": 2**63, "root": {"path": "r"}}
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
