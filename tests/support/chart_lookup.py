"""A cluster for Helm's ``lookup``: an API server that knows a few kinds, and the objects that a test puts into it."""

from __future__ import annotations

import copy
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from support.chart import CHART, HELM, Manifest, RefusedError, Values

_KINDS = {
    "v1": {
        "secrets": "Secret", "namespaces": "Namespace", "nodes": "Node", "serviceaccounts": "ServiceAccount", "pods": "Pod",
        "configmaps": "ConfigMap", "persistentvolumeclaims": "PersistentVolumeClaim", "services": "Service",
    },
    "apps/v1": {"statefulsets": "StatefulSet", "deployments": "Deployment", "daemonsets": "DaemonSet"},
    "batch/v1": {"jobs": "Job"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "node.k8s.io/v1": {"runtimeclasses": "RuntimeClass"},
    "storage.k8s.io/v1": {"storageclasses": "StorageClass"},
    "rbac.authorization.k8s.io/v1": {
        "clusterroles": "ClusterRole", "clusterrolebindings": "ClusterRoleBinding", "roles": "Role", "rolebindings": "RoleBinding",
    },
}  # fmt: skip
_OF_NO_NAMESPACE = {"namespaces", "nodes", "storageclasses", "runtimeclasses", "clusterroles", "clusterrolebindings"}


class Cluster:
    """Objects by kind and name, all of the namespace ``wf``."""

    def __init__(self, kubeconfig: Path) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self._kubeconfig = kubeconfig

    def apply(self, manifests: list[Manifest]) -> None:
        """Keep what Helm rendered, as the API server would."""
        owned = {"meta.helm.sh/release-name": "woodfrog", "meta.helm.sh/release-namespace": "wf"}
        for each in copy.deepcopy(manifests):
            each["metadata"]["annotations"] = each["metadata"].get("annotations", {}) | owned
            self.objects[each["kind"], each["metadata"]["name"]] = each

    def render(self, values: Values) -> list[Manifest]:
        """Render the chart for this cluster.

        Raises:
            RefusedError: helm refuses the values.
        """
        done = subprocess.run(
            [HELM, "template", "woodfrog", CHART, "--namespace", "wf", "--values", "-", "--dry-run=server", "--disable-openapi-validation"],
            env={"KUBECONFIG": str(self._kubeconfig), "HOME": str(self._kubeconfig.parent), "PATH": "/usr/bin:/bin"},
            input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RefusedError(done.stderr)
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    def answer(self, path: str) -> Any:
        """What is at a path; nothing if there is nothing."""
        words = path.partition("?")[0].strip("/").split("/")
        match words:
            case ["version"]:
                return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                groups = [version.split("/") for version in _KINDS if "/" in version]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*each) for each in groups]}
            case ["api", version] | ["apis", version]:
                return _resources(version)
            case ["apis", group, version]:
                return _resources(f"{group}/{version}")
            case [*_, "namespaces", "wf", kind, name]:
                return self._named(kind, name)
            case [*_, kind, name] if kind in _OF_NO_NAMESPACE:
                return self._named(kind, name)
            case [*_, kind]:
                return (
                    {"kind": "List", "apiVersion": "v1", "items": [], "metadata": {}}
                    if kind in _OF_NO_NAMESPACE
                    else None
                )
        return None

    def _named(self, kind: str, name: str) -> Manifest | None:
        kinds = {resource: each for known in _KINDS.values() for resource, each in known.items()}
        return self.objects.get((kinds.get(kind, ""), name))


def _group(name: str, version: str) -> dict[str, Any]:
    said = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [said], "preferredVersion": said}


def _resources(version: str) -> dict[str, Any] | None:
    if version not in _KINDS:
        return None
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": [
            {"name": name, "singularName": "", "namespaced": name not in _OF_NO_NAMESPACE, "kind": kind, "verbs": ["get", "list"]}
            for name, kind in _KINDS[version].items()
        ],
    }  # fmt: skip


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Serve one while the block runs."""
    kubeconfig = folder / "kubeconfig"
    made = Cluster(kubeconfig)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = made.answer(self.path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kubeconfig.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}],
        })
    )  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
