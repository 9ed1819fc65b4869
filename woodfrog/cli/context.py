"""How a verb reaches the control plane: on this machine, from within its own pod, or on a cluster through ``kubectl``.

Whoever may run something in the control plane's pod is its administrator, and the API server knows who that is. So from
outside a cluster a verb is not spoken over a port of ours: it runs, word for word, in that pod, by ``kubectl exec``. There
it finds the environment of the control plane, and continues as it would anywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from woodfrog.cli.kubectl import CONTEXT, Kubectl, Object, away
from woodfrog.dev_state import Reach, StateDirectory, default_state_dir
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.natstls import Trust

LABELS: Final = "app.kubernetes.io/name=woodfrog,app.kubernetes.io/component=controlplane"
"""By which the chart marks the control plane's pods."""
_CONTAINER: Final = "controlplane"


def reach_of(state_dir: Path | None, environment: Mapping[str, str] = os.environ) -> Reach:
    """Find the control plane: the one named by ``--state-dir``, by the environment, of this machine, or of a cluster.

    Does not return where the verb is carried out in the control plane's pod.

    Raises:
        FailureError: ``not-started`` if there is none, ``cluster-away`` if kubectl cannot find it, ``nats-trust``.
    """
    url = environment.get("WOODFROG_NATS_URL")
    if state_dir is None and url and not environment.get(CONTEXT):
        seed = environment.get("WOODFROG_NATS_SEED_FILE")
        return Reach(
            nats_url=url,
            cluster=environment.get("WOODFROG_CLUSTER") or "local",
            seed_file=Path(seed) if seed else None,
            database=environment.get("WOODFROG_DATABASE_URL"),
            trust=_trust(environment),
        )
    if kubectl := cluster_of(state_dir, environment):
        go_on_in_pod(kubectl, words_of_verb(sys.argv))
    return StateDirectory(state_dir or default_state_dir()).described().reach


def cluster_of(state_dir: Path | None, environment: Mapping[str, str] = os.environ) -> Kubectl | None:
    """Find the cluster that is meant: the one that was named, or where nobody named a control plane and none was started on this machine.

    Raises:
        BadInputError: a state directory was named, too.
        FailureError: ``cluster-away``: there is no kubectl to ask a context that was named.
    """
    if environment.get(CONTEXT):
        if state_dir is not None:
            raise BadInputError("--context", "it contradicts --state-dir, which is this machine's")
        return Kubectl.find(environment)
    named = state_dir is not None or environment.get("WOODFROG_NATS_URL")
    here = named or StateDirectory(default_state_dir()).description.exists()
    return None if here else Kubectl.find(environment)


def words_of_verb(argv: Sequence[str]) -> list[str]:
    """Return the words of a command line from its verb on: the options before it are about here."""
    words = list(argv[1:])
    while words and words[0].startswith("--context"):
        del words[: 1 if "=" in words[0] else 2]
    return words


def _trust(environment: Mapping[str, str]) -> Trust:
    try:
        return Trust.from_environment(environment)
    except InvalidSettingError as problem:
        raise FailureError(Failure("nats-trust", str(problem), "Correct the variable.")) from problem


def go_on_in_pod(kubectl: Kubectl, words: Sequence[str]) -> None:
    """Become the verb that these words call, in a control plane's pod.

    Raises:
        FailureError: ``cluster-away``.
    """
    os.execv(kubectl.program, kubectl.words(*in_control_plane(kubectl), *words))  # noqa: S606 - no shell is wanted


def in_control_plane(kubectl: Kubectl) -> list[str]:
    """Say how to call ``woodfrog`` in a running pod of the control plane: arguments of kubectl.

    Raises:
        FailureError: ``cluster-away``.
    """
    pods: list[Object] = kubectl.get("pods", "--all-namespaces", "--selector", LABELS)["items"]
    running = [
        pod for pod in pods if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    ]
    if not running:
        raise away(f"the cluster runs no pod labelled {LABELS}")
    ready = [pod for pod in running if any(each.get("ready") for each in pod["status"].get("containerStatuses", []))]
    chosen = (ready or running)[0]["metadata"]
    return ["exec", "--namespace", chosen["namespace"], "--container", _CONTAINER, chosen["name"], "--", "woodfrog"]
