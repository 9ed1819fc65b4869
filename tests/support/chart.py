"""The chart as helm renders it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/woodfrog"
HELM = Path(sys.executable).with_name("helm")

Values = Mapping[str, Any]
Manifest = dict[str, Any]

EXTERNAL: Values = {
    "controlplane": {"replicas": 3, "policies": "grace = '1h'\n[default]\nkeep_last = 3\n", "lease": "kubernetes"},
    "database": {"existingSecret": "database", "migrationSecret": "owner", "caSecret": "database-ca"},
}
EVERYTHING: Values = {
    **EXTERNAL,
    "imagePullSecrets": [{"name": "pull"}],
    "commonLabels": {"team": "a"},
    "nats": {"replicas": 3, "volume": "persistentVolumeClaim", "storageClassName": "fast", "extraConfig": "max_conn: 99"},
    "store": {"type": "s3", "bucket": "b", "prefix": "p/q", "region": "r", "endpoint": "http://minio:9000",
              "existingSecret": "s3", "encryption": {"generate": True}},
    "networkPolicy": {"enabled": True, "nodeCidrs": ["10.0.0.0/8"]},
    "api": {"enabled": True, "actions": True, "tokensSecret": "tokens", "tls": {"existingSecret": "api-tls"}},
    "tracing": {"endpoint": "http://collector:4318"},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "p"}}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}},
    "node": {"extraEnv": [{"name": "A", "value": "b"}], "podAnnotations": {"a": "b"}, "affinity": {"nodeAffinity": {}},
             "updateStrategy": {"type": "OnDelete", "rollingUpdate": None}, "dumpsAtOnce": 4},
}  # fmt: skip
MATRIX: dict[str, Values] = {
    "defaults": {},
    "external database": EXTERNAL,
    "everything": EVERYTHING,
    "one password for all nodes": {"nats": {"nodeTokens": False}},
    "sqlite on a host": {"database": {"sqlite": {"volume": "hostPath", "hostPath": {"path": "/srv/log", "node": "n1"}}}},
    "from sqlite to postgresql": {**EXTERNAL, "database": {
        "existingSecret": "database", "migrationSecret": "owner", "moveFromSqlite": True,
        "sqlite": {"volume": "hostPath", "hostPath": {"path": "/srv/log", "node": "n1"}}}},
    "sqlite in memory of the pod": {"database": {"sqlite": {"volume": "emptyDir"}}, "nats": {"volume": "emptyDir"}},
    "store on a claim": {"store": {"type": "persistentVolumeClaim", "persistentVolumeClaim": {"existingClaim": "c"},
                                   "encryption": {"existingSecret": "k", "existingSecretKey": "mine"}}},
    "a key for each snapshot": {"store": {"type": "s3", "bucket": "b", "encryption": {"existingSecret": "k",
        "perSnapshotKeys": {"enabled": True, "existingSecret": "private", "recipientSecret": "public"}}}},
    "store in azure": {"store": {"type": "azure", "bucket": "c", "account": "a", "existingSecret": "az"}},
    "store in gcs": {"store": {"type": "gcs", "bucket": "c"}, "node": {"serviceAccount": {"annotations": {"iam": "x"}}}},
    "the api for kubectl port-forward": {"api": {"enabled": True}},
    "nats of one's own": {"nats": {"enabled": False, "url": "tls://elsewhere:4222"}},
    "nats of one's own with a ca": {"nats": {"enabled": False, "url": "tls://elsewhere:4222", "tls": {"caSecret": "ca"}}},
    "nats without tls": {"nats": {"tls": {"enabled": False}}},
    "nats with a certificate of one's own": {"nats": {"replicas": 3, "tls": {"existingSecret": "nats-tls", "caSecret": "ca"}}},
    "nats with cert-manager": {"nats": {"tls": {"certManager": {"issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}}},
    "nats of one's own by secret": {"nats": {"enabled": False, "existingSecret": "urls"}},
    "nothing but pods": {"uninstall": {"enabled": False}, "runtimeClass": {"create": False},
                         "controlplane": {"kubernetes": False, "serviceAccount": {"create": False, "name": "mine"}}},
}  # fmt: skip
"""Values that people may give, by what is special about them."""


class RefusedError(Exception):
    """What helm said instead of rendering."""


@cache
def _rendered(values: str, version: str, release: str, namespace: str) -> str:
    done = subprocess.run(
        [
            HELM, "template", release, CHART, "--namespace", namespace, "--kube-version", version, "--values", "-",
            "--api-versions", "monitoring.coreos.com/v1",
        ],
        input=values, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def render(
    values: Values | None = None, *, version: str = "1.33.0", release: str = "woodfrog", namespace: str = "wf"
) -> list[Manifest]:
    """Render all manifests, hooks and tests too.

    Raises:
        RefusedError: helm refuses the values.
    """
    text = _rendered(json.dumps(values or {}), version, release, namespace)
    return [each for each in yaml.safe_load_all(text) if each]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod's specification, named by the kind and name of what makes it."""
    for each in manifests:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield name, each["spec"]
        elif "template" in each.get("spec", {}):
            yield name, each["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, init containers first."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The manifest of that kind and name."""
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found
