"""How a verb reaches the control plane: on this machine, from within its own pod, or on a cluster through ``kubectl``.

Whoever may run something in the control plane's pod is its administrator, and the API server knows who that is. So from
outside a cluster a verb is not spoken over a port of ours: it runs, word for word, in that pod, by ``kubectl exec``. There
it finds the environment of the control plane, and goes on as it would anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from protocol.failures import Failure, FailureError
from woodfrog.state import Reach, StateDirectory, default_state_dir

LABELS: Final = "app.kubernetes.io/name=woodfrog,app.kubernetes.io/component=controlplane"
"""By which the chart marks the control plane's pods."""
_CONTAINER: Final = "controlplane"
_KUBECTL_SECONDS: Final = 20.0


def reach_of(state_dir: Path | None, environment: Mapping[str, str] = os.environ) -> Reach:
    """Find the control plane: the one named by ``--state-dir``, by the environment, of this machine, or of a cluster.

    Does not return where the verb is carried out in the control plane's pod.

    Raises:
        FailureError: ``not-started`` if there is none, ``cluster-away`` if ``kubectl`` cannot find it.
    """
    url = environment.get("WOODFROG_NATS_URL")
    if state_dir is None and url:
        seed = environment.get("WOODFROG_NATS_SEED_FILE")
        return Reach(
            nats_url=url,
            cluster=environment.get("WOODFROG_CLUSTER") or "local",
            seed_file=Path(seed) if seed else None,
            database=environment.get("WOODFROG_DATABASE_URL"),
        )
    directory = StateDirectory(state_dir or default_state_dir())
    if state_dir is None and not directory.description.exists() and (kubectl := _kubectl(environment)):
        _go_on_in_pod(kubectl)
    return directory.described().reach


def _kubectl(environment: Mapping[str, str]) -> str | None:
    """The path of ``kubectl``, where there is one and a cluster for it to talk to."""
    configured = environment.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists()
    return shutil.which("kubectl", path=environment.get("PATH")) if configured else None


def _go_on_in_pod(kubectl: str) -> None:
    """Become the same verb in a control plane's pod."""
    namespace, pod = control_plane_pod(kubectl)
    where = ["--namespace", namespace, "--container", _CONTAINER, pod]
    os.execv(kubectl, [kubectl, "exec", *where, "--", "woodfrog", *sys.argv[1:]])  # noqa: S606 - no shell is wanted


def control_plane_pod(kubectl: str) -> tuple[str, str]:
    """Find a running pod of the control plane: its namespace and name.

    Raises:
        FailureError: ``cluster-away``.
    """
    asked = [kubectl, "get", "pods", "--all-namespaces", "--selector", LABELS, "--output", "json"]
    try:
        answer = subprocess.run(asked, capture_output=True, timeout=_KUBECTL_SECONDS, check=True)
        pods: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
        said = getattr(problem, "stderr", b"") or str(problem).encode()
        raise _away(f"kubectl cannot list its pods: {said.decode(errors='replace').strip()}") from problem
    running = [
        pod for pod in pods if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    ]
    ready = [pod for pod in running if any(c.get("ready") for c in pod["status"].get("containerStatuses", []))]
    if not running:
        raise _away(f"the cluster runs no pod labelled {LABELS}")
    chosen = (ready or running)[0]["metadata"]
    return chosen["namespace"], chosen["name"]


def _away(cause: str) -> FailureError:
    advice = "Check `kubectl config current-context` and that Woodfrog is installed there; or name a --state-dir."
    return FailureError(Failure("cluster-away", cause, advice))
