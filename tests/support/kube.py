"""A real cluster, as its administrator sees it: kubectl, and an adapter for what no API offers (tests/cluster/README.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from support.time_scale import scaled

BIN = Path(sys.executable).parent
Object = dict[str, Any]


class CommandFailedError(AssertionError):
    """A command of the test's own did not do what it was to do; with all that it said."""


def command(*arguments: str | Path, stdin: str | None = None, seconds: float = 120, check: bool = True) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(
        [str(argument) for argument in arguments], input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip
    if check and done.returncode != 0:
        raise CommandFailedError(
            f"{' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def until(what: Callable[[], Any], seconds: float, saying: str, every_seconds: float = 0.3) -> Any:
    """Wait until ``what()`` is true and return it; a command that fails meanwhile counts as not yet."""
    deadline = time.monotonic() + scaled(seconds)
    problem: Exception | None = None
    while True:
        try:
            if value := what():
                return value
        except (CommandFailedError, subprocess.TimeoutExpired) as again:
            problem = again
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {saying}" + (f" ({problem})" if problem else ""))
        time.sleep(every_seconds)


class Cluster:
    """The cluster that ``KUBECONFIG`` names."""

    def __init__(self) -> None:
        self.adapter = os.environ["WOODFROG_E2E_CLUSTER"]
        assert os.environ.get("KUBECONFIG"), "KUBECONFIG names no cluster"

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60, check: bool = True) -> str:
        """Run kubectl."""
        return command(BIN / "kubectl", *arguments, stdin=stdin, seconds=seconds, check=check)

    def adapt(self, *arguments: str | Path, seconds: float = 300) -> str:
        """Ask the adapter."""
        return command(self.adapter, *arguments, seconds=seconds)

    def on(self, node: str, *arguments: str, seconds: float = 60, check: bool = True) -> str:
        """Run a command on a node."""
        return command(self.adapter, "run", node, *arguments, seconds=seconds, check=check)

    def apply(self, *manifests: Object) -> None:
        """Apply manifests; unknown fields are let through, as an older API server needs."""
        text = yaml.safe_dump_all(manifests)
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=text)

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Fetch one object."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "", namespace: str = "default") -> list[Object]:
        """Fetch all objects of a kind that have the labels."""
        where = ["-n", namespace] if namespace else ["--all-namespaces"]
        found: list[Object] = json.loads(self.kubectl("get", kind, *where, "-l", selector, "-o", "json"))["items"]
        return found

    def nodes(self) -> list[str]:
        """Names of the nodes that are ready."""
        return [
            node["metadata"]["name"]
            for node in json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
            if _is(node, "Ready")
        ]

    def delete(self, kind: str, *names: str, namespace: str = "default", wait: bool = False) -> None:
        """Delete objects, those that are not there included."""
        self.kubectl(
            "delete", kind, *names, "-n", namespace, "--ignore-not-found", f"--wait={str(wait).lower()}", seconds=120
        )

    def execute(self, pod: str, *arguments: str, namespace: str = "default", check: bool = True) -> str:
        """Run a command in a pod."""
        return self.kubectl("exec", pod, "-n", namespace, "--", *arguments, check=check)

    def events_of(self, pod: str, reason: str, namespace: str = "default") -> list[Object]:
        """The Events with this reason that were told on a pod."""
        selector = f"involvedObject.name={pod},reason={reason}"
        found: list[Object] = json.loads(
            self.kubectl("get", "events", "-n", namespace, "--field-selector", selector, "-o", "json")
        )["items"]
        return found


def _is(thing: Object, condition: str) -> bool:
    return any(c["type"] == condition and c["status"] == "True" for c in thing["status"].get("conditions", []))


def running(pods: Sequence[Object], but: Sequence[str] = ()) -> list[Object]:
    """Those pods whose containers all run and that are not on their way out, without those of the given uids."""
    return [
        pod for pod in pods
        if pod["metadata"]["uid"] not in but and not pod["metadata"].get("deletionTimestamp") and _is(pod, "Ready")
    ]  # fmt: skip
