"""The same configuration and keys, kept in one Secret of Kubernetes instead of a directory.

A chart cannot make Ed25519 keys, and what it makes at random would be made anew by every tool that only renders it. So a
job that runs before the installation and before every upgrade calls this: keys that are there stay, the configuration
becomes the one of this release. The broker's pod mounts the ``.conf`` files, which hold public keys only; the control plane's
mounts its seeds.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from controlplane.kube.api import KubernetesApi, KubernetesUnavailableError, NotThereError
from protocol.failures import Failure, FailureError
from woodfrog.isolation import Isolation

_ATTEMPTS: Final = 5
_RETRY_SECONDS: Final = 1.0
_MEMORY: Final = Path("/dev/shm")
_SERVERS_OWN: Final = "nats.conf"


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str = ""
    labels: dict[str, str] = {}


class _Secret(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    data: dict[str, str] = {}
    """In base64, as the API has it."""


async def keep_secret(api: KubernetesApi, namespace: str, name: str, labels: dict[str, str]) -> bool:
    """Make the Secret, or bring its configuration up to date; tell whether anything changed.

    Raises:
        FailureError: ``secret-not-written``, or ``users-damaged`` if what is there cannot be read.
    """
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    said = ""
    for _ in range(_ATTEMPTS):
        try:
            try:
                found = await api.request("GET", f"{secrets}/{name}", _Secret)
            except NotThereError:
                found = None
            data = await asyncio.to_thread(_made, {} if found is None else found.data)
            if found is None:
                secret = _Secret(_Metadata(name, labels=labels), data)
                await api.request("POST", secrets, _Secret, _written(secret))
                return True
            if data == found.data:
                return False
            # With the version that was read, so that of two that write at once one is told to look again.
            await api.request("PUT", f"{secrets}/{name}", _Secret, _written(_Secret(found.metadata, data)))
        except KubernetesUnavailableError as problem:
            said = str(problem)
        else:
            return True
        await asyncio.sleep(_RETRY_SECONDS)
    raise FailureError(
        Failure(
            "secret-not-written",
            f"the Secret {namespace}/{name} could not be written: {said}",
            "Give the ServiceAccount of this job the verbs get, create and update for Secrets of its namespace.",
        )
    )


def _written(secret: _Secret) -> dict[str, object]:
    metadata = {key: value for key, value in msgspec.to_builtins(secret.metadata).items() if value}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": secret.data}


def _made(data: dict[str, str]) -> dict[str, str]:
    """Lay the files out in memory, make what is missing, and take them up again."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        isolation = Isolation(Path(name))
        for key, content in data.items():
            file = (
                isolation.seed_file(key.removesuffix(".seed")) if key.endswith(".seed") else isolation.directory / key
            )
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_bytes(base64.b64decode(content))
        isolation.make(callout=True)
        files = [file for file in isolation.directory.rglob("*") if file.is_file() and file.name != _SERVERS_OWN]
        return {file.name: base64.b64encode(file.read_bytes()).decode() for file in sorted(files)}
