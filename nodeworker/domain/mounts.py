"""What a mount of a container is, by where its source lies: which of the pod's own places it may be, and whether it may be written to.

A pod's author chooses what is mounted where: a directory of the node, a claim that other pods share, or a Secret may lie at
/dev/shm as well as anywhere else. So a place travels only if its source is where the engine or the kubelet keeps
what belongs to this very pod. The engine's own /dev/shm lies in

* containerd's ``…/sandboxes/<sandbox>/shm`` (internal/cri/server/sandbox_run_linux.go),
* CRI-O's ``…/<sandbox>/userdata/shm`` (server/sandbox_run_linux.go), Podman's ``…/<driver>-containers/<id>/userdata/shm``
  (libpod/container_internal_linux.go), whose id is that of another container with ``--ipc container:…`` and in a pod,
* Docker's ``…/containers/<id>/mounts/shm`` (daemon/container_operations_unix.go), with ``--ipc shareable`` and ``container:…``.

With ``--ipc host`` or ``hostIPC`` it is the node's own, which is everybody's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

SHM: Final = "/dev/shm"
_CONFIG = re.compile(
    r"/(?:.+/)?pods/(?P<uid>[^/]+)/volumes/kubernetes\.io~(?:configmap|secret|projected|downward-api)/[^/]+"
)
_GIVEN: Final = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"})
_DOCKERS_SHM = re.compile(r"/.+/containers/[0-9a-f]{64}/mounts/shm")
_PODMANS_SHM = re.compile(r"/.+/[a-z0-9]+-containers/[0-9a-f]{64}/userdata/shm")


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Say whether something from outside is mounted."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options") or ())


def is_read_only(mount: Mapping[str, Any]) -> bool:
    """Say whether the container may only read there; of contradicting options the last counts, as for the runtime."""
    said = [option for option in mount.get("options") or () if option in {"ro", "rw", "rro"}]
    return bool(said) and said[-1] != "rw"


def is_engines_shm(source: str, sandbox: str) -> bool:
    """Say whether a directory is where an engine keeps the shared memory of the pod, or of a container outside of pods."""
    if sandbox:
        parts = tuple(part for part in source.split("/") if part)
        return parts[-3:] in {("sandboxes", sandbox, "shm"), (sandbox, "userdata", "shm")}
    return bool(_DOCKERS_SHM.fullmatch(source) or _PODMANS_SHM.fullmatch(source))


def is_config(source: str, pod_uid: str | None) -> bool:
    """Say whether a directory is where the kubelet keeps a ConfigMap, Secret, token or downward API of the pod."""
    found = _CONFIG.fullmatch(source)
    return found is not None and (not pod_uid or found["uid"] == pod_uid)


def is_given(place: str, source: str, pod_uid: str | None) -> bool:
    """Say whether a file is one that the engine or the kubelet makes for each new container or pod.

    The kubelet keeps what is the pod's own below a directory with its uid, single files of ConfigMaps (``subPath``) too.
    """
    return place in _GIVEN or (bool(pod_uid) and f"/pods/{pod_uid}/" in source)
