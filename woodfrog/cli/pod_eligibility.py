"""What a migration must know of a pod, read from its JSON: whether it can move, which pod replaces it, and how to make it again.

Pure: objects of the Kubernetes API in, values out.
"""

from __future__ import annotations

from typing import Final

import msgspec

from controlplane.kube.env_expansion import VARIABLE, checkpoint_ids
from controlplane.kube.models import Pod
from woodfrog.cli.kubectl import Object
from woodfrog.protocol.failures import Failure

READY_LABEL: Final = "woodfrog.io/ready"
_OF_ITS_LIFE: Final = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "selfLink",
    "managedFields",
    "generation",
    "ownerReferences",
)
_OF_ITS_PLACE: Final = ("nodeName", "serviceAccount")
_TOKEN_MOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where one is mounted


def ids_of(pod: Object) -> tuple[str, ...]:
    """Name the checkpoint ids of a pod's containers, in their order."""
    return tuple(checkpoint_ids(msgspec.convert(pod, Pod)).values())


def is_ready(pod: Object) -> bool:
    """Whether all its containers run and say that they are well."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def refusal_to_move(pod: Object, nodes: list[Object], to: str | None) -> Failure | None:
    """Say why a pod cannot be moved, or ``None``: nothing is done to it before this is known."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    here = spec.get("nodeName")
    owner = next((each["kind"] for each in pod["metadata"].get("ownerReferences", []) if each.get("controller")), None)
    if not ids_of(pod):
        cause = f"no container of {name} has the variable {VARIABLE}"
        return Failure(
            "pod-not-protected",
            cause,
            "What is not protected would start from its image; delete the pod if that is meant.",
        )
    if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") != "Running" or not here:
        return Failure("pod-not-running", f"{name} does not run", "Only a running pod can be moved.")
    if owner in {"DaemonSet", "Node"}:
        return Failure("pod-bound", f"{name} belongs to its node, by a {owner}", "It cannot run anywhere else.")
    fit = {node["metadata"]["name"] for node in nodes if _may_take(node)}
    if to is not None and to == here:
        return Failure("node-unfit", f"{name} runs on {to} already", "Name another node.")
    if to is not None and to not in fit:
        cause = f"{to} is not a node that is ready, not cordoned and labelled {READY_LABEL}=true"
        return Failure("node-unfit", cause, f"These are: {', '.join(sorted(fit - {here})) or 'none'}.")
    if not fit - {here}:
        cause = f"no node but {here} is ready, not cordoned and labelled {READY_LABEL}=true"
        return Failure("node-unfit", cause, "Add or uncordon one.")
    return None


def _may_take(node: Object) -> bool:
    labelled = node["metadata"].get("labels", {}).get(READY_LABEL) == "true"
    return labelled and is_ready(node) and not node["spec"].get("unschedulable")


def replaces(pod: Object, old: Object) -> bool:
    """Whether a pod takes over from another: made after it, by the same owner or under the same name, for the same ids."""
    if pod["metadata"]["uid"] == old["metadata"]["uid"] or pod["metadata"].get("deletionTimestamp"):
        return False
    owners = {each["uid"] for each in old["metadata"].get("ownerReferences", [])}
    same_owner = owners & {each["uid"] for each in pod["metadata"].get("ownerReferences", [])}
    same_name = pod["metadata"]["name"] == old["metadata"]["name"]
    newer = pod["metadata"]["creationTimestamp"] >= old["metadata"]["creationTimestamp"]
    return bool(newer and (same_owner or same_name) and ids_of(pod) == ids_of(old))


def bare_copy(pod: Object) -> Object:
    """Make the manifest of a pod without an owner anew, without what admission and its node have added to it."""
    metadata = {name: value for name, value in pod["metadata"].items() if name not in _OF_ITS_LIFE}
    spec = {name: value for name, value in pod["spec"].items() if name not in _OF_ITS_PLACE}
    tokens = {
        mount["name"]
        for container in (*spec.get("initContainers", []), *spec["containers"])
        for mount in container.get("volumeMounts", [])
        if mount["mountPath"] == _TOKEN_MOUNT
    }
    spec["volumes"] = [volume for volume in spec.get("volumes", []) if volume["name"] not in tokens]
    for kind in ("initContainers", "containers"):
        if kind in spec:
            spec[kind] = [_without(container, tokens) for container in spec[kind]]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _without(container: Object, volumes: set[str]) -> Object:
    mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] not in volumes]
    return {**container, "volumeMounts": mounts}
