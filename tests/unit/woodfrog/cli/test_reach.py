"""Where a verb finds the control plane: by option, by environment, on this machine, on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from woodfrog.cli.context import LABELS, reach_of
from woodfrog.dev_state import Description, StateDirectory
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(30)

IN_POD = {"WOODFROG_NATS_URL": "nats://nats:4222", "WOODFROG_CLUSTER": "blue", "WOODFROG_NATS_SEED_FILE": "/keys/seed"}
WOODFROG = Path(sys.executable).with_name("woodfrog")


def describe(path: Path) -> None:
    StateDirectory(path).describe(
        Description(
            state_dir=str(path), nats_url="nats://127.0.0.1:1", socket="", runtime="", runc_root="", containers="", store="",
            spool="", database="/state/log.db", cluster="local", namespace="default",
        )
    )  # fmt: skip


def test_the_environment_of_the_control_plane_names_it() -> None:
    reach = reach_of(None, {**IN_POD, "WOODFROG_DATABASE_URL": "sqlite+aiosqlite:////log.db"})
    assert (reach.nats_url, reach.cluster, str(reach.seed_file)) == ("nats://nats:4222", "blue", "/keys/seed")
    assert reach.database == "sqlite+aiosqlite:////log.db"


def test_a_named_state_directory_goes_before_the_environment(tmp_path: Path) -> None:
    describe(tmp_path)
    reach = reach_of(tmp_path, IN_POD)
    assert (reach.nats_url, reach.cluster, reach.database) == (
        "nats://127.0.0.1:1", "local", "sqlite+aiosqlite:////state/log.db",
    )  # fmt: skip


def test_without_any_of_them_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailureError) as caught:
        reach_of(tmp_path, {})
    assert caught.value.failure.code == "not-started"


def kubectl(folder: Path, answer: str, code: int = 0) -> dict[str, str]:
    """Put a kubectl in the way that answers ``get`` and writes down what it is to ``exec``."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "kubectl"
    (folder / "answer").write_text(answer)
    script.write_text(
        f'#!/bin/sh\nif [ "$1" = exec ]; then printf "%s\\n" "$@"; exit 7; fi\n'
        f'printf "%s\\n" "$@" >{folder}/asked\n[ {code} = 0 ] || cat {folder}/answer >&2\n'
        f"[ {code} != 0 ] || cat {folder}/answer\nexit {code}\n"
    )
    script.chmod(0o755)
    return {
        "PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "KUBECONFIG": "/a/config",
        "WOODFROG_STATE_DIR": str(folder / "none"),
    }  # fmt: skip


def pod(name: str, *, ready: bool = True, phase: str = "Running", ending: bool = False) -> dict[str, object]:
    metadata = {"name": name, "namespace": "wf", **({"deletionTimestamp": "2026-11-25T10:00:00Z"} if ending else {})}
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": [{"ready": ready}]}}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WOODFROG, *arguments], check=False, env={**environment, "LANG": os.environ.get("LANG", "C.UTF-8")},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip


def test_on_a_cluster_the_verb_goes_on_word_for_word_in_a_ready_pod(tmp_path: Path) -> None:
    pods = [pod("old", ending=True), pod("starting", ready=False), pod("here"), pod("done", phase="Succeeded")]
    environment = kubectl(tmp_path, json.dumps({"items": pods}))
    done = run(environment, "history", "train-1", "-n", "team")
    assert done.stdout.splitlines() == [
        "exec", "--namespace", "wf", "--container", "controlplane", "here", "--", "woodfrog", "history", "train-1", "-n", "team",
    ]  # fmt: skip
    assert done.returncode == 7  # the verb's own code comes back
    assert LABELS in (tmp_path / "asked").read_text().splitlines()


def protected_pod(folder: Path, name: str, *ids: str) -> dict[str, str]:
    """A cluster whose only pod has containers of these ids, and a control plane."""
    containers = [{"name": each, "env": [{"name": "CEDANA_CHECKPOINT", "value": each}]} for each in ids]
    found = {"metadata": {"name": name}, "spec": {"containers": containers}, "items": [pod("here")]}
    return kubectl(folder, json.dumps(found))


@pytest.mark.parametrize(
    ("name", "asked", "becomes"),
    [
        ("p", "check p --timeout 5", "check train eval --timeout 5"),
        ("p", "why p -n team", "why train eval -n team"),
        ("web", "why web -n web", "why train eval -n web"),
        ("web", "why -n web web", "why -n web train eval"),
        ("web", "check --namespace=web web -o json", "check --namespace=web train eval -o json"),
        ("why", "why why", "why train eval"),
        ("check", "check -n check -- check", "check -n check -- train eval"),
        ("json", "why -o json -- json", "why -o json -- train eval"),
        ("5", "check 5 --timeout 5", "check train eval --timeout 5"),
    ],
)
def test_only_the_name_of_a_pod_becomes_the_ids_of_its_containers_not_an_option_that_says_the_same(
    tmp_path: Path, name: str, asked: str, becomes: str
) -> None:
    done = run(protected_pod(tmp_path, name, "train", "eval"), *asked.split())
    assert done.stdout.split("--\nwoodfrog\n")[-1].splitlines() == becomes.split()
    assert done.returncode == 7


@pytest.mark.parametrize("words", [("--context", "web"), ("--context=web",)])
def test_a_pod_may_be_called_like_the_context_that_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(protected_pod(tmp_path, "web", "train"), *words, "why", "web", "-n", "web")
    assert done.stdout.splitlines() == [
        "exec", "--context", "web", "--namespace", "wf", "--container", "controlplane", "here", "--", "woodfrog", "why", "train", "-n", "web",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("--context", "other"), ("--context=other",)])
def test_a_context_that_is_named_goes_before_what_runs_here(tmp_path: Path, words: tuple[str, ...]) -> None:
    environment = kubectl(tmp_path, json.dumps({"items": [pod("here")]}))
    (tmp_path / "none").mkdir()
    describe(tmp_path / "none")
    done = run(environment, *words, "get", "ids", "-n", "team")
    assert done.stdout.splitlines() == [
        "exec", "--context", "other", "--namespace", "wf", "--container", "controlplane", "here", "--", "woodfrog", "get", "ids", "-n", "team",
    ]  # fmt: skip
    assert (tmp_path / "asked").read_text().splitlines()[:3] == ["get", "--context", "other"]
    both = run(environment, *words, "get", "ids", "--state-dir", str(tmp_path / "none"))
    assert (both.returncode, "contradicts --state-dir" in both.stderr) == (2, True)
    nowhere = run({**environment, "PATH": "/nowhere"}, *words, "get", "ids")
    assert (nowhere.returncode, "no kubectl here" in nowhere.stderr) == (1, True)


def test_a_cluster_without_woodfrog_is_told_apart_from_one_that_does_not_answer(tmp_path: Path) -> None:
    done = run(kubectl(tmp_path, '{"items": []}'), "get", "snapshots")
    assert done.returncode == 1
    assert "runs no pod labelled" in done.stderr


def test_what_kubectl_complains_of_is_passed_on(tmp_path: Path) -> None:
    done = run(kubectl(tmp_path, "Unable to connect to the server", code=1), "get", "snapshots")
    assert done.returncode == 1
    assert "Unable to connect to the server" in done.stderr
    assert "kubectl config current-context" in done.stderr
