"""Which engine wrote a container's annotations, and what that engine itself says of the container's pod.

config.json mixes the words of the engine with those of the pod's author. CRI-O copies every annotation of the pod into it
(internal/factory/container/container.go, SpecAddAnnotations: "Preserve the sandbox annotations"), containerd those that
its configuration lets through, so a name that the running engine does not write itself may hold anything. Therefore the
engine is found out first, by a mark that its own code writes *after* the pod's words, and then only names are read that
this engine writes last:

* CRI-O ends with its own ``io.kubernetes.cri-o.*`` and, at the very end, the labels that the kubelet gave the container
  (``io.kubernetes.pod.*``; pkg/kubelet/kuberuntime/labels.go). Its mark is the container's own id, which no author of a
  pod can know in advance: Podman writes some of the same names, and a pod on containerd might.
* containerd ends with ``io.kubernetes.cri.*`` (pkg/cri/annotations); ``container-type`` since 1.0, the sandbox's
  namespace only since 1.5.

A bundle without such a mark was made by no kubelet's word: by Docker, Podman, nerdctl, ctr or ``woodfrog run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

CRIO_ID: Final = "io.kubernetes.cri-o.ContainerID"
CONTAINERD_TYPE: Final = "io.kubernetes.cri.container-type"
_CRIO: Final = {
    "namespace": "io.kubernetes.pod.namespace",
    "name": "io.kubernetes.pod.name",
    "uid": "io.kubernetes.pod.uid",
    "container": "io.kubernetes.container.name",
    "sandbox": "io.kubernetes.cri-o.SandboxID",
    "image": "io.kubernetes.cri-o.ImageName",
    "type": "io.kubernetes.cri-o.ContainerType",
}
_CONTAINERD: Final = {
    "namespace": "io.kubernetes.cri.sandbox-namespace",
    "name": "io.kubernetes.cri.sandbox-name",
    "uid": "io.kubernetes.cri.sandbox-uid",
    "container": "io.kubernetes.cri.container-name",
    "sandbox": "io.kubernetes.cri.sandbox-id",
    "image": "io.kubernetes.cri.image-name",
    "type": CONTAINERD_TYPE,
}
PLAIN_IMAGE: Final = "io.kubernetes.cri.image-name"
"""Where ``woodfrog run`` names the image of a container that belongs to no pod."""


class CriContainer(msgspec.Struct, frozen=True):
    """What a CRI engine says of a container and its pod; ``None`` where it writes nothing."""

    namespace: str | None = None
    name: str | None = None
    """The pod's."""
    uid: str | None = None
    container: str | None = None
    """The container's name in its pod."""
    sandbox: str | None = None
    image: str | None = None
    type: str | None = None
    """``container`` or ``sandbox``."""


def read(annotations: Mapping[str, str], container_id: str) -> CriContainer | None:
    """Read what the engine says; ``None`` if no CRI engine wrote the bundle of the container ``container_id``."""
    if annotations.get(CRIO_ID) == container_id:
        names = _CRIO
    elif annotations.get(CONTAINERD_TYPE):
        names = _CONTAINERD
    else:
        return None
    return CriContainer(**{field: annotations.get(name) or None for field, name in names.items()})
