"""The example's controller over HTTP: it makes what is missing and replaces what failed, and nothing else."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes_asyncio import client, config
from support.scheduler_fakes import EXAMPLES, example

pytestmark = pytest.mark.timeout(30)

Object = dict[str, Any]


class Api:
    """The two kinds that the controller asks for. No cluster here can store custom resources."""

    def __init__(self) -> None:
        self.trainings: list[Object] = example("custom-resource/training.yaml")
        self.trainings[0]["metadata"] |= {"namespace": "default", "uid": "u1"}
        self.pods: dict[str, Object] = {}
        self.made: list[str] = []
        self.refusals = 0

    async def list_trainings(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.json_response({"kind": "Status", "reason": "ServiceUnavailable"}, status=503)
        return web.json_response({"metadata": {}, "items": self.trainings})

    async def list_pods(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "example.com/training=custom"
        return web.json_response(
            {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(self.pods.values())}
        )

    async def make(self, request: web.Request) -> web.Response:
        pod = await request.json()
        name = pod["metadata"]["name"]
        assert name not in self.pods
        self.pods[name] = {**pod, "status": {"phase": "Running"}}
        self.made.append(name)
        return web.json_response(self.pods[name], status=201)

    async def delete(self, request: web.Request) -> web.Response:
        return web.json_response(self.pods.pop(request.match_info["name"]))


@pytest_asyncio.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """The API, and the controller at work on it."""
    served = Api()
    application = web.Application()
    pods = "/api/v1/namespaces/default/pods"
    application.add_routes([
        web.get("/apis/example.com/v1/trainings", served.list_trainings),
        web.get(pods, served.list_pods),
        web.post(pods, served.make),
        web.delete(pods + "/{name}", served.delete),
    ])  # fmt: skip
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there = client.Configuration()
    there.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    real = client.ApiClient
    monkeypatch.setattr(client, "ApiClient", lambda: real(there))
    monkeypatch.setattr(config, "load_config", lambda: asyncio.sleep(0))
    controller = runpy.run_path(str(EXAMPLES / "custom-resource" / "controller.py"))
    controller["main"].__globals__["EVERY_SECONDS"] = 0.02
    working = asyncio.create_task(controller["main"]())
    yield served
    assert not working.done()
    working.cancel()
    await asyncio.wait([working])
    await runner.cleanup()


async def settled(api: Api, count: int) -> None:
    for _ in range(500):
        if len(api.made) >= count:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert len(api.made) == count


async def test_it_makes_the_pods_of_a_training_once(api: Api) -> None:
    await settled(api, 2)
    assert sorted(api.pods) == ["custom-0", "custom-1"]
    for pod in api.pods.values():
        assert pod["metadata"]["ownerReferences"][0]["uid"] == "u1"
        assert pod["spec"] == example("custom-resource/training.yaml")[0]["spec"]["template"]["spec"]


async def test_a_pod_that_is_gone_and_one_that_failed_are_made_again(api: Api) -> None:
    await settled(api, 2)
    del api.pods["custom-0"]
    await settled(api, 3)
    api.pods["custom-1"]["status"]["phase"] = "Failed"
    await settled(api, 4)
    assert api.made[2:] == ["custom-0", "custom-1"]


async def test_a_pod_that_is_ending_or_has_succeeded_is_left(api: Api) -> None:
    await settled(api, 2)
    api.pods["custom-0"]["status"]["phase"] = "Succeeded"
    api.pods["custom-1"]["status"]["phase"] = "Failed"
    api.pods["custom-1"]["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:30Z"
    await settled(api, 2)


async def test_an_api_that_refuses_is_asked_again(api: Api) -> None:
    await settled(api, 2)
    api.refusals = 3
    del api.pods["custom-0"]
    await settled(api, 3)
