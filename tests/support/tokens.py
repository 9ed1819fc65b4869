"""A Kubernetes API that knows pods and reviews their tokens, over real HTTP, as authentication.k8s.io/v1 documents it.

No apiserver can run here; that a real one says the same is for the tests in a cluster.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from pathlib import Path
from typing import Any, Self

from aiohttp import web

NAMESPACE, SERVICE_ACCOUNT = "woodfrog-system", "woodfrog-node"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def part(content: dict[str, Any]) -> str:
    """Write one part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


class TokenApi:
    """Pods by name, and what a review says of each token. Tests change both."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.pods: dict[str, dict[str, Any]] = {}
        self.reviews: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        """Every review that was asked for."""
        self.failing = False
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(REVIEWS, self._review)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}", self._pod)
        for collection in ("/api/v1/pods", "/api/v1/nodes", "/apis/batch/v1/jobs"):
            app.router.add_get(collection, self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                    "users": [{"name": "it", "user": {"token": "control-plane"}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def run_pod(
        self,
        name: str,
        node: str,
        *,
        account: str = SERVICE_ACCOUNT,
        namespace: str = NAMESPACE,
        audience: str = "woodfrog",
        lifetime_seconds: int = 3600,
        node_claim: bool = False,
    ) -> str:
        """Have a pod run on a node; answer the token that the kubelet gives it."""
        uid = str(uuid.uuid4())
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {"nodeName": node, "serviceAccountName": account, "containers": []},
            "status": {"phase": "Running"},
        }
        username = f"system:serviceaccount:{namespace}:{account}"
        now = int(time.time())
        payload = {"sub": username, "aud": [audience], "exp": now + lifetime_seconds, "jti": str(uuid.uuid4())}
        token = f"{part({'alg': 'RS256', 'kid': 'k'})}.{part(payload)}.c2lnbmF0dXJl"
        extra = {"authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [uid]}
        if node_claim:
            extra["authentication.kubernetes.io/node-name"] = [node]
        self.reviews[token] = {
            "authenticated": True,
            "user": {"username": username, "uid": "u", "groups": ["system:serviceaccounts"], "extra": extra},
            "audiences": [audience],
        }
        return token

    def place(self, name: str, node: str, *, namespace: str = "default", checkpoint_id: str) -> dict[str, Any]:
        """Have a protected pod run on a node; answer its object."""
        env = [{"name": "CEDANA_CHECKPOINT", "value": checkpoint_id}]
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": str(uuid.uuid4()), "resourceVersion": "1"},
            "spec": {
                "nodeName": node,
                "runtimeClassName": "cedana",
                "serviceAccountName": "default",
                "containers": [{"name": "main", "env": env}],
            },
            "status": {"phase": "Running"},
        }
        return self.pods[name]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """Give all pods, and no change of them."""
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(float(request.query["timeoutSeconds"]))
            return response
        items = list(self.pods.values()) if request.path.endswith("/pods") else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def _review(self, request: web.Request) -> web.Response:
        if self.failing:
            return web.json_response({"kind": "Status", "code": 500}, status=500)
        assert request.headers["Authorization"] == "Bearer control-plane"
        question = await request.json()
        assert (question["apiVersion"], question["kind"]) == ("authentication.k8s.io/v1", "TokenReview")
        self.asked.append(question["spec"])
        status = self.reviews.get(question["spec"]["token"], {"authenticated": False, "error": "invalid bearer token"})
        if status["authenticated"] and not set(status["audiences"]) & set(question["spec"]["audiences"]):
            status = {"authenticated": False, "error": "token audiences are not the wanted ones"}
        return web.json_response({**question, "status": status}, status=201)

    async def _pod(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        if pod is None or pod["metadata"]["namespace"] != request.match_info["namespace"]:
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)
        return web.json_response(pod)
