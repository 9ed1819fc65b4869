"""The played cluster over HTTP, as a control plane of its own process finds it: lists, watches, and the rules of content types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from aiohttp import web

from controlplane.kube.api import ApiError
from support.fake_cluster import Object, PlayedCluster

COLLECTIONS = {"/api/v1/pods": "Pod", "/apis/batch/v1/jobs": "Job", "/api/v1/nodes": "Node"}
NODE = {
    "metadata": {"name": "node-1", "uid": "node-1", "resourceVersion": "1"},
    "spec": {},
    "status": {"conditions": []},
}


class _Server:
    def __init__(self, cluster: PlayedCluster) -> None:
        self._cluster = cluster
        self._history: list[tuple[str, bytes]] = [("", b"")]
        """Every change, at its version."""
        self._moved = asyncio.Condition()
        cluster.watching.append(self._changed)

    def _changed(self, kind: str, thing: Object, gone: bool) -> None:
        change = {"type": "DELETED" if gone else "MODIFIED", "object": thing}
        self._history.append((kind, json.dumps(change).encode() + b"\n"))
        assert thing["metadata"]["resourceVersion"] == str(len(self._history) - 1)
        asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        kind = COLLECTIONS.get(request.path)
        if kind is not None and "watch" in request.query:
            return await self._watch(kind, request)
        if kind is not None:
            there = {"Pod": self._cluster.pods, "Job": self._cluster.jobs, "Node": {"node-1": NODE}}[kind]
            return web.json_response(
                {"metadata": {"resourceVersion": str(len(self._history) - 1)}, "items": list(there.values())}
            )
        if request.path.endswith("/events") and request.method == "GET":
            return web.json_response({"items": []})
        if request.method == "PATCH" and request.content_type != "application/merge-patch+json":
            return web.json_response({"code": 415, "reason": "UnsupportedMediaType"}, status=415)
        body = await request.json() if request.can_read_body else None
        try:
            answer = self._cluster.answer(request.method, request.path, body, dict(request.query))
        except ApiError as refusal:
            said = {"code": refusal.status, "reason": refusal.reason, "message": str(refusal)}
            return web.json_response(said, status=refusal.status)
        return web.json_response(answer, status=201 if request.method == "POST" else 200)

    async def _watch(self, kind: str, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        version = int(request.query["resourceVersion"])
        while True:
            async with self._moved:
                while len(self._history) <= version + 1:
                    await self._moved.wait()
            for changed, line in self._history[version + 1 :]:
                version += 1
                if changed == kind:
                    await response.write(line)


@asynccontextmanager
async def cluster_over_http(cluster: PlayedCluster, folder: Path) -> AsyncIterator[Path]:
    """Serve the cluster on loopback; the file is a kubeconfig that names it."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _Server(cluster).handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        file = folder / "kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "played",
            "clusters": [{"name": "played", "cluster": {"server": server}}],
            "users": [{"name": "played", "user": {"token": "played"}}],
            "contexts": [{"name": "played", "context": {"cluster": "played", "user": "played"}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(config))
        yield file
    finally:
        await runner.cleanup()
