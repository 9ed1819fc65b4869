"""A controller as people write them: it makes the bare pods of each Training, and makes them again when they are gone.

It knows nothing of checkpoints. Its pods have no owner that Kubernetes itself would act for, their names stay the same, and
a pod that failed is replaced: that is all there is to see for Woodfrog, and it is enough.

Run it where KUBECONFIG names your cluster: ``python controller.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from kubernetes_asyncio import client, config

GROUP, VERSION, PLURAL = "example.com", "v1", "trainings"
LABEL = f"{GROUP}/training"
EVERY_SECONDS = 1.0


def pods_of(training: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the pods that a Training shall have, named ``<training>-<number>``."""
    meta, spec = training["metadata"], training["spec"]
    template = spec["template"]
    for number in range(spec["replicas"]):
        given = template.get("metadata", {})
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **given,
                "name": f"{meta['name']}-{number}",
                "namespace": meta["namespace"],
                "labels": {**given.get("labels", {}), LABEL: meta["name"]},
                "ownerReferences": [
                    {
                        "apiVersion": f"{GROUP}/{VERSION}",
                        "kind": "Training",
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": template["spec"],
        }


async def reconcile(core: client.CoreV1Api, training: dict[str, Any]) -> None:
    """Make the pods that are missing, and delete those that failed, so that they are missing the next time."""
    meta = training["metadata"]
    found = await core.list_namespaced_pod(meta["namespace"], label_selector=f"{LABEL}={meta['name']}")
    there = {pod.metadata.name: pod for pod in found.items}
    for wanted in pods_of(training):
        pod = there.get(wanted["metadata"]["name"])
        if pod is None:
            await core.create_namespaced_pod(meta["namespace"], wanted)
        elif pod.status.phase == "Failed" and pod.metadata.deletion_timestamp is None:
            await core.delete_namespaced_pod(pod.metadata.name, meta["namespace"])


async def main() -> None:
    """Look at every Training again and again; a request that fails is made again with the next look."""
    await config.load_config()
    async with client.ApiClient() as api:
        core, trainings = client.CoreV1Api(api), client.CustomObjectsApi(api)
        while True:
            try:
                found = await trainings.list_cluster_custom_object(GROUP, VERSION, PLURAL)
                for each in found["items"]:
                    if "deletionTimestamp" not in each["metadata"]:
                        await reconcile(core, each)
            except client.ApiException as problem:
                print(f"{problem.status} {problem.reason}", flush=True)
            await asyncio.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
