"""What reaches into containers that run: words that cannot be meant, and what the runtime says of a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import described, woodfrog

from woodfrog.cli.session_commands import parse_signal
from woodfrog.local.command_errors import EXIT_CODES, command_error
from woodfrog.local.oci_bundle import BadInputError, check_annotations, parse_annotation, parse_memory
from woodfrog.local.oci_runtime import runtime_failed

pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a stack that was started once and runs no more."""
    return described(tmp_path)


@pytest.mark.parametrize(
    ("text", "amount"), [("512MiB", 512 << 20), ("512m", 512 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("6291456b", 6 << 20)]
)  # fmt: skip
def test_memory_is_written_as_woodfrog_or_as_docker_has_it(text: str, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["512", "-1m", "1x", "", "5m", "1 m", "0GiB"])
def test_memory_that_cannot_be_meant_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInputError, match="--memory"):
        parse_memory(text)


def test_an_annotation_is_one_of_woodfrogs_or_somebody_elses() -> None:
    assert parse_annotation("woodfrog.io/on-stop=ignore") == ("woodfrog.io/on-stop", "ignore")
    assert parse_annotation("example.org/team=a=b") == ("example.org/team", "a=b")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("woodfrog.io/on-stop", "KEY=VALUE"),
        ("=a", "key"),
        ("a b=c", "key"),
        ("woodfrog.io/onstop=ignore", "woodfrog.io/on-stop"),
        ("woodfrog.io/on-stop=perhaps", "perhaps"),
        ("org.criu.config=/etc/shadow", "itself"),
        ("io.kubernetes.cri.image-name=other", "itself"),
    ],
)
def test_an_annotation_that_cannot_be_meant_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(BadInputError, match="--annotation") as refused:
        parse_annotation(text)
    assert word in str(refused.value)


def test_an_annotation_does_not_contradict_an_option_or_another() -> None:
    interval = ("woodfrog.io/interval", "5s")
    check_annotations((interval,), {})
    with pytest.raises(BadInputError, match="--interval"):
        check_annotations((interval,), {"woodfrog.io/interval": "--interval"})
    with pytest.raises(BadInputError, match="twice"):
        check_annotations((interval, interval), {})


@pytest.mark.parametrize(("text", "name"), [("KILL", "KILL"), ("sigusr1", "USR1"), ("9", "KILL"), ("15", "TERM")])
def test_a_signal_is_written_by_its_name_or_number(text: str, name: str) -> None:
    assert parse_signal(text) == name


@pytest.mark.parametrize("text", ["", "0", "SIG", "900", "FROG", "-9", "TERM 9"])
def test_a_signal_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInputError, match="--signal"):
        parse_signal(text)


@pytest.mark.parametrize(
    "verb",
    [
        ("run", "--id", "a", "--memory", "1x", "--", "true"),
        ("run", "--id", "a", "--annotation", "woodfrog.io/frog=1", "--", "true"),
        ("run", "--id", "a", "--annotation", "woodfrog.io/interval=5s", "--interval", "5s", "--", "true"),
        ("run", "-d", "--id", "a", "--memory", "1x", "--", "true"),
        ("kill", "a", "--signal", "FROG"),
        ("exec", "--env", "1=2", "a", "--", "true"),
        ("exec", "--workdir", "tmp", "a", "--", "true"),
        ("exec", "--tty", "a", "--", "true"),
        ("exec", "a", "--"),
        ("exec", "a", "-it", "--", "sh"),
        ("logs", "a/b"),
        ("logs", "--tail", "-1", "a"),
    ],
)
def test_a_verb_that_cannot_be_meant_changes_nothing(state: Path, verb: tuple[str, ...]) -> None:
    before = sorted(state.rglob("*"))
    refused = woodfrog(verb[0], "--state-dir", state, *verb[1:])
    named = next((word for word in verb if word.startswith("--") and word != "--" and word in refused.stderr), None)
    assert refused.exit_code == 2
    assert named or "CMD" in refused.stderr or "ID" in refused.stderr
    assert sorted(state.rglob("*")) == before


def test_logs_of_an_id_without_any_say_which_containers_have_some(state: Path) -> None:
    refused = woodfrog("logs", "--state-dir", state, "a")
    assert refused.exit_code == 1
    assert "(no-output)" in refused.stderr
    assert "--detach" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            'runc create failed: unable to start container process: exec: "nosuch": executable file not found in $PATH',
            127,
        ),
        ('exec failed: unable to start container process: exec: "/no": stat /no: no such file or directory', 127),
        ('runc create failed: unable to start container process: exec: "/etc": permission denied', 126),
        ('runc create failed: unable to start container process: exec: "/etc": is a directory', 126),
        ("error mounting /x to rootfs: no such file or directory", None),
        ("unable to apply cgroup configuration: permission denied", None),
        ("", None),
    ],
)
def test_a_command_that_is_missing_is_told_from_other_things_that_are(words: str, code: int | None) -> None:
    failure = command_error(words, "it")
    assert (EXIT_CODES[failure.code] if failure else None) == code


def test_a_runtime_that_was_killed_is_not_a_runtime_that_said_nothing() -> None:
    killed = runtime_failed(["/bin/woodfrog-runtime", "kill"], -9, "").failure
    assert killed.code == "runtime-killed"
    assert "signal 9" in killed.cause
    silent = runtime_failed(["/bin/woodfrog-runtime", "kill"], 1, " \n").failure
    assert silent.code == "runtime-failed"
    assert "exit code 1" in silent.cause
