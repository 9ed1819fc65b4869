"""The name of a pod where an id is meant: on a cluster, people know their pods, and the ids of its containers are in its manifest."""

from __future__ import annotations

import sys
from pathlib import Path

from woodfrog.cli.context import cluster_of, go_on_in_pod, words_of_verb
from woodfrog.cli.kubectl import Kubectl, NotFoundError
from woodfrog.cli.pod_eligibility import ids_of
from woodfrog.protocol.failures import Failure, FailureError


def go_on_with_ids(verb: str, names: list[str], namespace: str, state_dir: Path | None) -> None:
    """Where a cluster is asked and one of the names is a pod's, become the same verb there, with the ids of its containers.

    Raises:
        FailureError: ``cluster-away``, ``pod-not-protected``.
    """
    kubectl = cluster_of(state_dir)
    if kubectl is None:
        return
    ids = [checkpoint_id for name in names for checkpoint_id in _ids(kubectl, name, namespace)]
    if ids != names:
        options = [word for word in words_of_verb(sys.argv)[1:] if word not in names]
        go_on_in_pod(kubectl, [verb, *ids, *options])


def _ids(kubectl: Kubectl, name: str, namespace: str) -> tuple[str, ...]:
    try:
        pod = kubectl.get("pod", name, "--namespace", namespace)
    except NotFoundError:
        return (name,)
    ids = ids_of(pod)
    if not ids:
        advice = "See `woodfrog check -f` for what its manifest lacks."
        raise FailureError(Failure("pod-not-protected", f"no container of {name} is protected", advice))
    return ids
