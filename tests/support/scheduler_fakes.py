"""What controllers that cannot run here make of their objects: the pods, down to each label, annotation and variable.

The cluster's own Job controller is of Kubernetes 1.20, and Kueue, Volcano, Armada and JobSet come as images from registries. What they
do to pods was read in their code; each function names the file. Pods get no owner: the garbage collector would take them
for orphans of something that this cluster does not have.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from support.kube import Object

EXAMPLES = Path(__file__).parents[2] / "examples"

INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
GROUP_NAME = "scheduling.k8s.io/group-name"


def example(name: str) -> list[Object]:
    """The objects of a file of the examples."""
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def job_pods(job: Object) -> list[Object]:
    """The pods that a Job runs at the same time, as the Job controller of Kubernetes 1.28 and later makes them.

    kubernetes/kubernetes pkg/controller/job: job_controller.go (manageJob) and indexed_job_utils.go
    (addCompletionIndexEnvVariable, addCompletionIndexAnnotation, podGenerateNameWithIndex). While a Job is suspended it has none.
    """
    spec, name = job["spec"], job["metadata"]["name"]
    if spec.get("suspend"):
        return []
    indexed = spec.get("completionMode") == "Indexed"
    made = []
    for number in range(min(spec.get("parallelism", 1), spec.get("completions", 1))):
        pod = _pod(spec["template"], f"{name}-{number}" if indexed else name, generate=True)
        pod["metadata"]["labels"] |= {"job-name": name, JOB_NAME: name}
        if indexed:
            pod["metadata"]["labels"][INDEX] = pod["metadata"]["annotations"][INDEX] = str(number)
            pod["spec"]["hostname"] = f"{name}-{number}"
            source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
            _append(pod, {"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
        made.append(pod)
    return made


def vcjob_pods(job: Object, version: int = 0) -> list[Object]:
    """The pods of a Job of Volcano.

    volcano-sh/volcano pkg/controllers/job: job_controller_util.go (createJobPod), helpers/helpers.go (PodNameFmt) and
    plugins/env/env.go (OnPodCreate), which appends the variables behind those that are there.
    """
    spec, name = job["spec"], job["metadata"]["name"]
    made = []
    for task in spec["tasks"]:
        for number in range(task["replicas"]):
            pod = _pod(task["template"], f"{name}-{task['name']}-{number}")
            pod["metadata"]["labels"] |= {
                "volcano.sh/job-name": name,
                "volcano.sh/task-spec": task["name"],
                "volcano.sh/job-namespace": "default",
                "volcano.sh/queue-name": spec["queue"],
            }
            pod["metadata"]["annotations"] |= {
                "volcano.sh/task-index": str(number),
                "volcano.sh/task-spec": task["name"],
                "volcano.sh/job-name": name,
                "volcano.sh/queue-name": spec["queue"],
                "volcano.sh/job-version": str(version),
                "volcano.sh/template-uid": f"{name}-{task['name']}",
                GROUP_NAME: f"{name}-8c4d4a0e-4d0c-4c7a-b6ab-0f4d6f0e7a11",
            }
            pod["spec"].setdefault("schedulerName", spec["schedulerName"])
            if "env" in spec.get("plugins", {}):
                _append(pod, {"name": "VK_TASK_INDEX", "value": str(number)})
                _append(pod, {"name": "VC_TASK_INDEX", "value": str(number)})
            made.append(pod)
    return made


def armada_pods(submitted: Object, node: str | None = None) -> list[Object]:
    """The pods that Armada's executor makes of the jobs in a file for ``armadactl submit``: one for each, with an id of its own.

    armadaproject/armada internal/executor/util/kubernetes_object.go (CreatePodFromExecutorApiJob); which node the scheduler chose is
    in the node selector.
    """
    made = []
    for job in submitted["jobs"]:
        job_id = f"01{secrets.token_hex(12)}"
        pod = _pod({"metadata": {"labels": job.get("labels"), "annotations": job.get("annotations")}, "spec": job["podSpec"]},
                   f"armada-{job_id}-0")  # fmt: skip
        pod["metadata"]["labels"] |= {
            "armada_job_id": job_id, "armada_queue_id": submitted["queue"], "armada_pod_number": "0", "armada_pod_count": "1",
        }  # fmt: skip
        pod["metadata"]["annotations"] |= {
            "armada_job_run_id": secrets.token_hex(16), "armada_jobset_id": submitted["jobSetId"], "armada_owner": "anonymous",
        }  # fmt: skip
        pod["spec"]["restartPolicy"] = "Never"
        if node is not None:
            pod["spec"]["nodeSelector"] = {**pod["spec"].get("nodeSelector", {}), "kubernetes.io/hostname": node}
        made.append(pod)
    return made


def jobset_jobs(jobset: Object, restarts: int = 0) -> Iterator[Object]:
    """The Jobs of a JobSet; of another attempt under the same names.

    kubernetes-sigs/jobset pkg/controllers/jobset_controller.go (constructJob, labelAndAnnotateObject).
    """
    name = jobset["metadata"]["name"]
    number_of_all = 0
    every = sum(each["replicas"] for each in jobset["spec"]["replicatedJobs"])
    for each in jobset["spec"]["replicatedJobs"]:
        for number in range(each["replicas"]):
            job_name = f"{name}-{each['name']}-{number}"
            said = {
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": each["name"],
                "jobset.sigs.k8s.io/restart-attempt": str(restarts),
                "jobset.sigs.k8s.io/replicatedjob-replicas": str(each["replicas"]),
                "jobset.sigs.k8s.io/global-replicas": str(every),
                "jobset.sigs.k8s.io/job-index": str(number),
                "jobset.sigs.k8s.io/job-key": hashlib.sha1(f"default/{job_name}".encode()).hexdigest(),
                "jobset.sigs.k8s.io/job-global-index": str(number_of_all),
            }
            number_of_all += 1
            spec = copy.deepcopy(each["template"]["spec"])
            spec["suspend"] = jobset["spec"].get("suspend", False)
            for carrier in (given := {"metadata": {"name": job_name}}, spec["template"]):
                meta = carrier.setdefault("metadata", {})
                for kind in ("labels", "annotations"):
                    meta[kind] = {**(meta.get(kind) or {}), **said}
            yield {"apiVersion": "batch/v1", "kind": "Job", **given, "spec": spec}


def admitted(job: Object, node_labels: dict[str, str] | None) -> Object:
    """A Job as Kueue leaves it: suspended, or with the labels of its flavor's nodes in the node selector.

    kubernetes-sigs/kueue pkg/controller/jobs/job/job_controller.go (Suspend, RunWithPodSetsInfo, RestorePodSetsInfo) and
    pkg/podset/podset.go (Merge): when the Job is suspended again, the template is what the user wrote.
    """
    changed = copy.deepcopy(job)
    changed["spec"]["suspend"] = node_labels is None
    if node_labels is not None:
        spec = changed["spec"]["template"]["spec"]
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **node_labels}
    return changed


def _pod(template: Object, name: str, *, generate: bool = False) -> Object:
    meta: dict[str, Any] = copy.deepcopy(template.get("metadata") or {})
    meta["name"] = f"{name}-{secrets.token_hex(3)[:5]}" if generate else name
    for kind in ("labels", "annotations"):
        meta[kind] = dict(meta.get(kind) or {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": copy.deepcopy(template["spec"])}


def _append(pod: Object, variable: Object) -> None:
    for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
        if variable["name"] not in {each["name"] for each in container.get("env", ())}:
            container.setdefault("env", []).append(variable)
