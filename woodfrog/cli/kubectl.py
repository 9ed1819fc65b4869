"""The cluster of ``kubectl``'s current context, or of one that was named, through ``kubectl`` itself.

It knows its users' contexts, proxies and ways to log in, and whoever may do a thing with it may do it here; no other client would
know them all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from woodfrog.protocol.failures import Failure, FailureError

Object = dict[str, Any]
"""An object of the Kubernetes API, as JSON has it."""

CONTEXT: Final = "WOODFROG_CONTEXT"
"""The variable that names a context of kubectl, as the option ``--context`` does."""
_SECONDS: Final = 20.0


class NotFoundError(FailureError):
    """The object is not there."""


class Kubectl:
    """One cluster, as its user's configuration names it."""

    def __init__(self, program: str, context: str = "") -> None:
        """Without a ``context``, the current one is meant."""
        self.program = program
        self._options = ("--context", context) if context else ()

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Kubectl | None:
        """Find ``kubectl``, where there is one and a cluster for it to talk to.

        Raises:
            FailureError: ``cluster-away``: a context was named, and there is none.
        """
        configured = environment.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists()
        program = shutil.which("kubectl", path=environment.get("PATH")) if configured else None
        context = environment.get(CONTEXT, "")
        if context and not program:
            raise away(f"there is no kubectl here, or no configuration for it that could have the context {context}")
        return cls(program, context) if program else None

    def words(self, *arguments: str) -> list[str]:
        """Say how a verb of kubectl is called."""
        verb, *rest = arguments
        return [self.program, verb, *self._options, *rest]

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = _SECONDS) -> str:
        """Run a verb of kubectl and return what it prints.

        Raises:
            NotFoundError: the object is not there.
            FailureError: ``cluster-away``, with what kubectl says.
        """
        try:
            done = subprocess.run(
                self.words(*arguments), input=stdin, capture_output=True, text=True, timeout=seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise away(f"kubectl {arguments[0]}: {problem}") from problem
        if done.returncode != 0:
            failure = away(f"kubectl {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}").failure
            raise (NotFoundError if "(NotFound)" in done.stderr else FailureError)(failure)
        return done.stdout

    def get(self, *what: str) -> Object:
        """Fetch an object, or a list of them.

        Raises:
            NotFoundError, FailureError: as :meth:`run`.
        """
        text = self.run("get", *what, "--output", "json")
        try:
            found: Object = json.loads(text)
        except ValueError as problem:
            raise away(f"kubectl get {what[0]} printed no JSON: {problem}") from problem
        return found

    def raw(self, path: str) -> Object:
        """Fetch a path of the API.

        Raises:
            NotFoundError, FailureError: as :meth:`run`.
        """
        found: Object = json.loads(self.run("get", "--raw", path))
        return found


def away(cause: str) -> FailureError:
    """Say that the cluster, or Woodfrog on it, cannot be asked."""
    advice = "Check `kubectl config current-context` and that Woodfrog is installed there; or name a --state-dir."
    return FailureError(Failure("cluster-away", cause, advice))
