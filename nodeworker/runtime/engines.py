"""What Docker and Podman have written down about a container, beside the bundle that they hand over.

Neither names the image in config.json, and Docker not even the stop signal. Both keep it in a JSON file of their own, found by
the mounts that they add to every container: Docker's ``containers/<id>/config.v2.json`` (container.Container, moby's
container/container.go), Podman's ``<driver>-containers/containers.json`` and, for ``--rm``, ``volatile-containers.json``
(containers/storage, containers.go). These files are no interface, so whatever is not as expected is unknown.
"""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import os

from nodeworker.runtime.container import Json, part, read_json
from nodeworker.runtime.minimal_stdlib import json, suppress

_DOCKER_FILES = frozenset({"hostname", "hosts", "resolv.conf"})
_ID_LENGTH = 64
_USERDATA = "userdata"
_PODMAN_LISTS = ("containers.json", "volatile-containers.json")


def docker_record(spec: Json, container_id: str) -> Json:
    """Docker's own record of a container; empty if the container is not Docker's.

    The files that it mounts may be another container's (``--network container:…``), but lie beside its own.
    """
    for source in _sources(spec):
        folder, _, name = source.rpartition("/")
        containers, _, owner = folder.rpartition("/")
        if name in _DOCKER_FILES and len(owner) == _ID_LENGTH and containers.endswith("/containers"):
            with suppress(OSError, ValueError):
                return read_json(os.path.join(containers, container_id, "config.v2.json"))
    return {}


def docker_stop_signal(spec: Json, container_id: str) -> str | None:
    """The signal with which ``docker stop`` begins; ``None`` if the container is not Docker's."""
    config = part(docker_record(spec, container_id), "Config")
    return str(config.get("StopSignal") or "TERM") if config else None


def image(spec: Json, bundle: str) -> tuple[str, str]:
    """The image's name as the user wrote it, and its id: ``sha256:`` and 64 hex digits. Empty where it is unknown."""
    folder = os.path.abspath(bundle)
    if os.path.basename(folder) == _USERDATA:
        return _podman_image(spec, folder)
    record = docker_record(spec, os.path.basename(folder))
    name, digest = part(record, "Config").get("Image"), record.get("Image")
    return (str(name or ""), digest) if isinstance(digest, str) and digest.startswith("sha256:") else ("", "")


def _podman_image(spec: Json, folder: str) -> tuple[str, str]:
    container = os.path.dirname(folder)
    container_id = os.path.basename(container)
    places = [os.path.dirname(container)]
    for source in _sources(spec):
        before, found, _ = source.partition(f"/{container_id}/{_USERDATA}/")
        if found and before not in places:
            places.append(before)
    for place in places:
        for name in _PODMAN_LISTS:
            with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
                with open(os.path.join(place, name), "rb") as file:
                    known = json.load(file)
                for each in known:
                    if each.get("id") == container_id and len(each["image"]) == _ID_LENGTH:
                        metadata = json.loads(each.get("metadata") or "{}")
                        return str(metadata.get("image-name") or ""), f"sha256:{each['image']}"
    return "", ""


def _sources(spec: Json) -> list[str]:
    mounts = spec.get("mounts")
    return (
        [str(mount.get("source", "")) for mount in mounts if isinstance(mount, dict)]
        if isinstance(mounts, list)
        else []
    )
