"""The mission: its Job, as it stands, goes on on another node, whatever ended it on the first."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from support.install import NAMESPACE, Installation
from support.kube import BIN, Cluster, Object, running, until
from support.seed import SAMPLES, SeedJob, advertise_gpus, broken_at
from support.time_scale import limit, scaled

pytestmark = pytest.mark.timeout(420)


@pytest.fixture
def job(cluster: Cluster, woodfrog: Installation, request: pytest.FixtureRequest) -> Iterator[SeedJob]:
    """A running Job that has done some work."""
    made = SeedJob(cluster, f"seed-{abs(hash(request.node.name)) % 10**6}-{int(time.time()) % 10**5}")
    made.apply()
    made.runs()
    made.does(20)
    yield made
    made.remove()


def leave_home(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    """Have the job run on another node than the control plane, which must not be kept from its own."""
    if job.node == woodfrog.home:
        cluster.kubectl("cordon", woodfrog.home)
        left = job.pod
        cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
        job.goes_on(job.steps(), but=left["metadata"]["uid"])
        cluster.kubectl("uncordon", woodfrog.home)


def test_a_deleted_pod_goes_on_on_another_node(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, node, done = job.pod, job.node, job.steps()
    cluster.kubectl("cordon", node)
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
    job.goes_on(done, but=first["metadata"]["uid"])
    assert job.node != node
    assert "Init ran" in cluster.execute(job.pod_name, "cat", "/workspace/init-log.txt")
    told = until(lambda: cluster.events_of(job.pod_name, "Restored"), 30, "the pod is told that it was restored")
    assert "snapshot" in told[0]["message"]
    assert until(
        lambda: cluster.events_of(first["metadata"]["name"], "Checkpointed"), 30, "and the old one, that it was dumped"
    )
    why = woodfrog.ask("why", job.name)
    assert (why["choice"], why["incarnation"]) == ("restored", 2)
    cluster.execute(job.pod_name, "touch", "/workspace/enough")
    until(lambda: cluster.get("job", job.name)["status"].get("succeeded") == 1, 60, "the Job completes")


def test_a_drained_node_hands_over(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, node, done = job.pod, job.node, job.steps()
    cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    "--pod-selector", f"job-name={job.name}", limit(90), seconds=100)  # fmt: skip
    job.goes_on(done, but=first["metadata"]["uid"])
    assert job.node != node


def test_a_preempted_job_goes_on_where_there_is_room(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, node, done = job.pod, job.node, job.steps()
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"urgent-{job.name}"},
        "spec": {
            "priorityClassName": "urgent", "nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": SAMPLES, "command": ["sleep", "3600"], "resources": {"limits": {"nvidia.com/gpu": 1}},
            }],
        },
    })  # fmt: skip
    try:
        job.goes_on(done, but=first["metadata"]["uid"], seconds=150)
        assert job.node != node
        until(lambda: running([cluster.get("pod", f"urgent-{job.name}")]), 60, "the urgent pod has its room")
    finally:
        cluster.delete("pod", f"urgent-{job.name}", wait=True)


def test_preempted_again_and_again_it_loses_neither_a_retry_nor_time(
    cluster: Cluster, woodfrog: Installation, job: SeedJob
) -> None:
    """The seed's ``backoffLimit`` is 1. Kubernetes 1.26 and later count every deletion and would wait 10, 20, 40 s."""
    assert job.manifest["spec"]["backoffLimit"] == 1
    counted = bool(job.pod["metadata"].get("finalizers"))
    for turn in range(1, 4):
        if counted:
            _ahead(cluster, job, turn)
        seconds = _preempt(cluster, job)
        assert seconds < 5 or not counted
    found = cluster.get("job", job.name)
    assert not [each for each in found["status"].get("conditions", ()) if each["type"] in {"Failed", "FailureTarget"}]
    if counted:
        assert found["status"]["failed"] == 3
        _ahead(cluster, job, 4)


def _ahead(cluster: Cluster, job: SeedJob, ends: int) -> None:
    until(lambda: cluster.get("job", job.name)["spec"]["backoffLimit"] == 1 + ends, 30, "backoffLimit is one ahead")


def _preempt(cluster: Cluster, job: SeedJob) -> float:
    """Delete the pod; its work is resumed by another. Return after how many seconds that one was there."""
    left, done = job.pod, job.steps()
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
    deleted_at = time.monotonic()
    until(lambda: _others(job, left), 60, "its replacement is there", every_seconds=0.1)
    seconds = time.monotonic() - deleted_at
    job.goes_on(done, but=left["metadata"]["uid"])
    until(lambda: len(job.pods()) == 1, 150, "the old pod is gone, which Kubernetes 1.20 counts while it is there")
    return seconds


def _others(job: SeedJob, left: Object) -> list[Object]:
    """Pods of the Job that are not on their way out, other than one."""
    return [
        pod for pod in job.pods()
        if pod["metadata"]["uid"] != left["metadata"]["uid"] and not pod["metadata"].get("deletionTimestamp")
    ]  # fmt: skip


def test_a_job_made_again_from_the_same_file_goes_on(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, done = job.pod, job.steps()
    cluster.delete("job", job.name, wait=True)
    until(lambda: not job.pods(), 90, "its pods are gone")
    job.apply()
    job.goes_on(done, but=first["metadata"]["uid"])


def test_a_containerd_that_restarts_loses_nothing(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, node = job.pod, job.node
    cluster.on(node, "sh", "-c", "kill -9 $(pgrep -x containerd)")
    done = job.does(job.steps() + 20)
    assert broken_at(job.log()) is None
    until(lambda: node in cluster.nodes(), 60, "the node is ready")
    cluster.kubectl("cordon", node)
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
    job.goes_on(done, but=first["metadata"]["uid"])


def test_a_worker_that_dies_in_mid_dump_leaves_the_job_running(
    cluster: Cluster, woodfrog: Installation, job: SeedJob
) -> None:
    first, node = job.pod, job.node
    asking = subprocess.Popen(
        [BIN / "woodfrog", "checkpoint", job.name, "--timeout", str(scaled(60))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: woodfrog.ask("get", "snapshots", job.name), 30, "a dump has begun", every_seconds=0.01)
    cluster.on(node, "pkill", "-9", "-f", "python.* -m nodeworker$")
    asking.wait(90)
    done = job.does(job.steps() + 20)
    assert broken_at(job.log()) is None
    until(woodfrog.nodes_ready, 90, "the worker is back")
    cluster.kubectl("cordon", node)
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
    job.goes_on(done, but=first["metadata"]["uid"])


def test_a_control_plane_that_is_down_at_the_stop_signal_hears_of_the_dump_later(
    cluster: Cluster, woodfrog: Installation, job: SeedJob
) -> None:
    leave_home(cluster, woodfrog, job)
    first, node, done = job.pod, job.node, job.steps()
    woodfrog.scale(0)
    try:
        cluster.kubectl("cordon", node)
        cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
        time.sleep(15)
    finally:
        woodfrog.scale(1)
    job.goes_on(done, but=first["metadata"]["uid"], seconds=180)
    assert job.node != node


def test_a_start_waits_for_a_control_plane_that_is_down(cluster: Cluster, woodfrog: Installation, job: SeedJob) -> None:
    first, done = job.pod, job.steps()
    cluster.delete("job", job.name, wait=True)
    until(lambda: not job.pods(), 90, "its pods are gone")
    woodfrog.scale(0)
    try:
        job.apply()
        time.sleep(20)
        assert not running(job.pods()), "it started although nobody could say from where"
    finally:
        woodfrog.scale(1)
    job.goes_on(done, but=first["metadata"]["uid"], seconds=240)


def test_a_lost_node_costs_what_was_done_since_the_last_dump(
    cluster: Cluster, woodfrog: Installation, job: SeedJob
) -> None:
    leave_home(cluster, woodfrog, job)
    first, node = job.pod, job.node
    woodfrog.say("checkpoint", job.name, "--timeout", str(scaled(60)), seconds=90)
    saved = job.steps()
    job.does(saved + 10)
    cluster.adapt("kill", node)
    try:
        # What a cloud does once the machine is gone; without it Kubernetes waits five minutes, as the pod tolerates.
        cluster.kubectl("delete", "node", node)
        job.runs(150, but=first["metadata"]["uid"])
        done = job.does(saved + 20)
        assert broken_at(job.log()) is None
        assert job.node != node
        why = woodfrog.ask("why", job.name)
        assert why["choice"] == "restored"
        assert done < 10_000
    finally:
        cluster.adapt("start", node)
        until(lambda: node in cluster.nodes(), 120, "the node is back")
        advertise_gpus(cluster)
        until(woodfrog.nodes_ready, 120, "and its worker")
    assert cluster.list("pods", "app.kubernetes.io/component=controlplane", NAMESPACE)
