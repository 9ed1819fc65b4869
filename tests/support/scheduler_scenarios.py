"""Schedulers that cannot run here, each played on a real cluster: how it takes pods away, and what makes them again.

:mod:`support.scheduler_fakes` says what pods they make; here is what they do. A play is begun, and then ticks: it does whatever its scheduler and
the controllers behind it would do at the sight of what there is.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import time
import uuid

from kubernetes_asyncio import client, config

from controlplane.kube.env_expansion import checkpoint_ids
from controlplane.kube.models import Pod
from support.kube import Cluster, Object, running
from support.scheduler_fakes import (
    EXAMPLES,
    JOB_NAME,
    admitted,
    armada_pods,
    example,
    job_pods,
    jobset_jobs,
    vcjob_pods,
)
from support.seed import LOG
from woodfrog.protocol import wire

HOST = "kubernetes.io/hostname"


class Stage:
    """A namespace of its own, so that the ids of the manifests are new ones."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace = f"schedulers-{int(time.time()) % 10**6}"
        self.first, self.second = cluster.nodes()[:2]
        cluster.kubectl("create", "namespace", self.namespace)

    def put(self, *things: Object) -> None:
        for thing in things:
            thing["metadata"]["namespace"] = self.namespace
        if things:
            self.cluster.apply(*things)

    def pods(self, selector: str) -> list[Object]:
        return self.cluster.list("pods", selector, self.namespace)

    def delete(self, *pods: Object) -> None:
        """Delete pods with the grace period that they have."""
        names = [str(pod["metadata"]["name"]) for pod in pods]
        if not names:
            return
        self.cluster.kubectl("delete", "pod", *names, "-n", self.namespace, "--wait=false")

    def post(self, pod: Object, subresource: str, body: Object) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/{subresource}"
        self.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def evict(self, pod: Object) -> None:
        """Evict through the API, as ``kubectl drain`` does; before 1.22 it had another version."""
        name = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        versions = self.cluster.kubectl("api-versions").split()
        version = "policy/v1" if "policy/v1" in versions else "policy/v1beta1"
        self.post(pod, "eviction", {"apiVersion": version, "kind": "Eviction", "metadata": name})

    def log(self, pod: Object) -> str:
        name = str(pod["metadata"]["name"])
        return self.cluster.execute(name, "cat", LOG, namespace=self.namespace, check=False)


class Play:
    """One scheduler, and the controllers behind it. ``tick`` does whatever they would do now."""

    example: str
    """The folder of its manifests."""
    ids: tuple[str, ...]
    selector: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.begin()

    def begin(self) -> None:
        """What the user does."""

    def tick(self) -> None:
        """What controllers and scheduler do when they see what there is."""

    def interrupt(self) -> None:
        """How the scheduler takes the pods away."""

    def there(self) -> list[Object]:
        return self.stage.pods(self.selector)

    def remaining(self) -> list[Object]:
        """Pods that were not told to end."""
        return [pod for pod in self.there() if "deletionTimestamp" not in pod["metadata"]]

    def up(self, but: set[str]) -> dict[str, Object]:
        """The running pods by their ids, without those of these uids; nothing unless all run."""
        found = {_id(pod): pod for pod in running(self.there(), sorted(but))}
        return found if set(found) == set(self.ids) else {}


def _id(pod: Object) -> str:
    return next(iter(checkpoint_ids(wire.decode(json.dumps(pod), Pod)).values()))


class PlayedJob(Play):
    """The Job controller of a newer Kubernetes: one pod for each index; while suspended none."""

    job: Object

    def tick(self) -> None:
        there = self.remaining()
        if self.job["spec"].get("suspend"):
            self.stage.delete(*there)
        else:
            self.stage.put(*_missing(job_pods(self.job), there))


def _missing(wanted: list[Object], there: list[Object]) -> list[Object]:
    """Those pods of Jobs for whose Job and index there is none."""
    key = lambda pod: (pod["metadata"]["labels"][JOB_NAME], pod["spec"].get("hostname"))  # noqa: E731
    taken = {key(pod) for pod in there}
    return [pod for pod in wanted if key(pod) not in taken]


class IndexedJob(PlayedJob):
    """An Indexed Job whose pods are evicted, as by a drain."""

    example = "indexed-job"
    ids = ("train-0", "train-1")
    selector = f"{JOB_NAME}=train"

    def begin(self) -> None:
        self.job = example("indexed-job/job.yaml")[0]

    def interrupt(self) -> None:
        for pod in self.remaining():
            self.stage.evict(pod)


class Kueue(PlayedJob):
    """Kueue suspends a Job when it is made, admits it with a flavor, suspends it to preempt, admits it with another flavor."""

    example = "kueue"
    ids = ("queued-training",)
    selector = f"{JOB_NAME}=queued-training"

    def begin(self) -> None:
        self.written = example("kueue/job.yaml")[0]
        assert self.written["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        self.job = admitted(self.written, None)
        self.tick()
        assert self.there() == []
        self.job = admitted(self.written, {HOST: self.stage.first})

    def interrupt(self) -> None:
        self.job = admitted(self.written, None)
        self.tick()
        self.job = admitted(self.written, {HOST: self.stage.second})


class Volcano(Play):
    """Volcano's scheduler: it binds, all pods of a group or none, and evicts by a condition and a deletion.

    volcano-sh/volcano pkg/scheduler/cache/cache.go: DefaultBinder.Bind, defaultEvictor.Evict.
    """

    def bind(self) -> None:
        waiting = [
            pod for pod in self.remaining() if pod["spec"]["schedulerName"] == "volcano" and "nodeName" not in pod["spec"]
        ]  # fmt: skip
        free = [
            node["metadata"]["name"] for node in self.stage.cluster.list("nodes") if not node["spec"].get("unschedulable")
        ]  # fmt: skip
        for pod in waiting if len(waiting) == len(self.ids) else ():
            self.stage.post(pod, "binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
                "target": {"apiVersion": "v1", "kind": "Node", "name": free[0]},
            })  # fmt: skip

    def evict(self, pod: Object) -> None:
        said = {"type": "Ready", "status": "False", "reason": "Evict", "message": "Pod is evicted, because of preempt"}
        patch = json.dumps({"status": {"conditions": [said]}})
        name = pod["metadata"]["name"]
        self.stage.cluster.kubectl(
            "patch", "pod", name, "-n", self.stage.namespace, "--subresource=status", "-p", patch
        )
        self.stage.delete(pod)


class VolcanoJob(Volcano):
    """A Job of Kubernetes, made and kept by the cluster's own Job controller; only the scheduler is played."""

    example = "volcano"
    ids = ("volcano-training",)
    selector = "job-name=volcano-training"

    def begin(self) -> None:
        self.stage.put(next(each for each in example("volcano/job.yaml") if each["kind"] == "Job"))

    def tick(self) -> None:
        self.bind()

    def interrupt(self) -> None:
        self.evict(self.remaining()[0])


class Vcjob(Volcano):
    """Volcano's own Job. One pod is evicted; the policy says that the task begins again, so the other one is deleted."""

    example = "volcano"
    ids = ("gang-0", "gang-1")
    selector = "volcano.sh/job-name=gang"
    version = 0

    def begin(self) -> None:
        self.job = example("volcano/vcjob.yaml")[0]

    def tick(self) -> None:
        taken = {
            pod["metadata"]["name"] for pod in self.there()
        }  # those that are ending included: a name is free when it is
        wanted = [pod for pod in vcjob_pods(self.job, self.version) if pod["metadata"]["name"] not in taken]
        self.stage.put(*wanted)
        self.bind()

    def interrupt(self) -> None:
        evicted, other = self.remaining()
        self.evict(evicted)
        assert self.job["spec"]["tasks"][0]["policies"] == [{"event": "PodEvicted", "action": "RestartTask"}]
        self.stage.delete(other)
        self.version += 1


class Armada(Play):
    """Armada's executor deletes the pod of a run that is preempted; the job has failed then, and the user submits it again.

    armadaproject/armada internal/executor/job/processors/preempt_runs.go and context/cluster_context.go (doDelete).
    """

    example = "armada"
    ids = ("armada-training",)
    selector = "armada_queue_id=research"

    def begin(self) -> None:
        self.submit(self.stage.first)

    def submit(self, node: str) -> None:
        self.stage.put(*armada_pods(example("armada/job.yaml")[0], node))

    def interrupt(self) -> None:
        pod = self.remaining()[0]
        said = [f"{name}={time.ctime()}" for name in ("reported_preempted", "deletion_requested")]
        self.stage.cluster.kubectl("annotate", "pod", pod["metadata"]["name"], "-n", self.stage.namespace, *said)
        self.stage.delete(pod)
        self.submit(self.stage.second)


class JobSet(Play):
    """A JobSet that restarts: its Jobs are deleted in the foreground and made anew once they and their pods are gone.

    kubernetes-sigs/jobset pkg/controllers/jobset_controller.go (deleteJobs, shouldCreateJob).
    """

    example = "jobset"
    ids = ("set-0-0", "set-0-1", "set-1-0", "set-1-1")
    selector = "jobset.sigs.k8s.io/jobset-name=set"
    restarts = 0

    def begin(self) -> None:
        self.jobset = example("jobset/jobset.yaml")[0]

    def tick(self) -> None:
        there = self.there()
        attempt = "jobset.sigs.k8s.io/restart-attempt"
        ending = {
            pod["metadata"]["labels"][JOB_NAME]
            for pod in there
            if pod["metadata"]["labels"][attempt] != str(self.restarts)
        }
        for job in jobset_jobs(self.jobset, self.restarts):
            if job["metadata"]["name"] not in ending and (missing := _missing(job_pods(job), there)):
                self.stage.put(*missing)

    def interrupt(self) -> None:
        assert self.jobset["spec"]["failurePolicy"]["maxRestarts"] > self.restarts
        self.restarts += 1
        self.stage.delete(*self.remaining())


class CustomResource(Play):
    """The example's own controller; only its Training is not in the API.

    The API server of CI's cluster was built with a newer Go than it was written for, and dies when any custom resource is made.
    """

    example = "custom-resource"
    ids = ("custom-0", "custom-1")
    selector = "example.com/training=custom"

    def begin(self) -> None:
        self.reconcile = runpy.run_path(str(EXAMPLES / "custom-resource" / "controller.py"))["reconcile"]
        self.training = example("custom-resource/training.yaml")[0]
        self.training["metadata"] |= {"namespace": self.stage.namespace, "uid": str(uuid.uuid4())}

    def tick(self) -> None:
        asyncio.run(self.look())

    async def look(self) -> None:
        await config.load_config()
        async with client.ApiClient() as api:
            await self.reconcile(client.CoreV1Api(api), self.training)

    def interrupt(self) -> None:
        for pod in self.remaining():
            self.stage.evict(pod)


PLAYS: tuple[type[Play], ...] = (IndexedJob, Kueue, VolcanoJob, Vcjob, Armada, JobSet, CustomResource)
