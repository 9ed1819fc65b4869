"""Telling Kubernetes that this node is ready for protected pods, by a label that the RuntimeClass selects nodes by.

One request with the pod's own token; a client library of 50 MB on every node would be much for it.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from protocol.failures import Failure, FailureError

READY: Final = "woodfrog.io/ready"

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS: Final = 15.0
_TRIES: Final = 4


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether this process is to speak to Kubernetes at all."""
    return environment.get("WOODFROG_KUBERNETES") == "on"


def set_ready(environment: Mapping[str, str], *, ready: bool, account: Path = _ACCOUNT) -> None:
    """Set the node's label, or take it away.

    Raises:
        FailureError: ``label-failed``.
    """
    node = environment.get("WOODFROG_NODE") or os.uname().nodename
    body = json.dumps({"metadata": {"labels": {READY: "true" if ready else None}}})
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            status, reason = _patch(environment, account, f"/api/v1/nodes/{node}", body)
        except (OSError, http.client.HTTPException, KeyError) as failed:
            problem = repr(failed)
            continue
        if status == http.HTTPStatus.OK or (status == http.HTTPStatus.NOT_FOUND and not ready):
            return
        problem = f"{status} {reason}"
        if status < http.HTTPStatus.INTERNAL_SERVER_ERROR and status != http.HTTPStatus.TOO_MANY_REQUESTS:
            break
    raise FailureError(
        Failure(
            "label-failed",
            f"the label {READY} of node {node} could not be {'set' if ready else 'taken away'}: {problem}",
            "The service account of the node worker needs `patch` on `nodes`, and WOODFROG_NODE the node's name.",
        )
    )


def _patch(environment: Mapping[str, str], account: Path, path: str, body: str) -> tuple[int, str]:
    host, port = environment["KUBERNETES_SERVICE_HOST"], int(environment["KUBERNETES_SERVICE_PORT"])
    trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
    # Many clusters' own authorities leave out extensions that Python insists on since 3.13 and every other client forgives.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=trust)
    try:
        headers = {
            "Authorization": f"Bearer {(account / 'token').read_text().strip()}",
            "Content-Type": "application/merge-patch+json",
        }
        connection.request("PATCH", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.reason
    finally:
        connection.close()
