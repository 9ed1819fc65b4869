"""An installation grows: three NATS servers, two control planes, PostgreSQL; nothing that it knew is lost, and no part is missed when it dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from support.install import NAMESPACE, Installation
from support.kube import Cluster, Object, running, until
from support.postgres_image import pack_postgres, remove_postgres, run_postgres
from support.seed import SeedJob, broken_at

from woodfrog.protocol import subjects

pytestmark = pytest.mark.timeout(600)

STREAMS = {subjects.REPORTS_STREAM, subjects.PODS_STREAM, subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM}
LEASE_SECONDS = 15


@pytest.fixture(scope="session")
def database(cluster: Cluster, woodfrog: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Object]:
    """Chart values for a PostgreSQL on the cluster: one role that owns the tables, and one that may only append."""
    assert woodfrog.there
    host = run_postgres(cluster, pack_postgres(tmp_path_factory.mktemp("postgres")))
    for name, role in (("owner", "postgres"), ("database", "woodfrog_controller")):
        cluster.apply({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": {"url": f"postgresql://{role}@{host}/woodfrog"},
        })  # fmt: skip
    yield {"existingSecret": "database", "migrationSecret": "owner", "moveFromSqlite": True}
    cluster.delete("secret", "owner", "database", namespace=NAMESPACE)
    remove_postgres(cluster)


class Grown:
    """The installation after it has grown, a Job that ran all the while, and one that had ended before."""

    def __init__(self, cluster: Cluster, woodfrog: Installation, job: SeedJob, asleep: SeedJob) -> None:
        self.cluster, self.woodfrog, self.job, self.asleep = cluster, woodfrog, job, asleep
        self.asleep_at = 0
        self.containers: dict[str, str] = {}
        self.containerd: dict[str, str] = {}

    def leader(self) -> str:
        """The control plane's pod that holds the Lease."""
        holder = self.cluster.get("lease", "woodfrog-controlplane", NAMESPACE)["spec"].get("holderIdentity") or ""
        return str(holder).partition("/")[0]

    def pods(self, component: str) -> list[Object]:
        """Those pods of a component that are ready."""
        return running(self.cluster.list("pods", f"app.kubernetes.io/component={component}", NAMESPACE))

    def copies(self) -> dict[str, int]:
        """How many servers hold all of each stream, and of each consumer, that somebody leads."""
        found: dict[str, int] = {}
        for pod in self.pods("nats"):
            server = pod["metadata"]["name"]
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{server}:8222/proxy/jsz?acc=CONTROL&streams=1&consumers=1"
            told = json.loads(self.cluster.kubectl("get", "--raw", path))
            for account in told.get("account_details", []):
                for stream in account.get("stream_detail", []):
                    for each in (stream, *(stream.get("consumer_detail") or [])):
                        name = stream["name"] if each is stream else f"{stream['name']}/{each['name']}"
                        found.setdefault(name, 0)
                        group = each.get("cluster") or {}
                        if group.get("leader") == server:
                            found[name] = 1 + sum(
                                peer["current"] and not peer.get("offline", False) for peer in group.get("replicas", [])
                            )
        return found

    def copied(self) -> bool:
        """Whether three servers hold everything."""
        found = self.copies()
        return found.keys() >= STREAMS and set(found.values()) == {3}

    def delete_pod(self) -> None:
        """End the Job's pod; the next one may not come back to its node."""
        self.cluster.kubectl("cordon", self.job.node)
        self.cluster.kubectl("delete", "pod", self.job.pod_name, "--wait=false")

    def goes_on(self, after: int) -> float:
        """Wait until the Job resumes from at least that step on another node; answer how long that took."""
        was, node, began = self.job.pod["metadata"]["uid"], self.job.node, time.monotonic()
        self.job.goes_on(after, but=was)
        assert self.job.node != node
        self.cluster.kubectl("uncordon", node)
        return time.monotonic() - began


def container_of(job: SeedJob) -> str:
    pod = job.cluster.get("pod", job.pod_name)
    (status,) = pod["status"]["containerStatuses"]
    return f"{pod['metadata']['uid']} {status['containerID']} {status['restartCount']}"


def containerd_pids(cluster: Cluster) -> dict[str, str]:
    return {node: cluster.on(node, "sh", "-c", "pgrep -ox containerd") for node in cluster.nodes()}


def kill_controlplane(cluster: Cluster, pod: Object) -> None:
    """SIGKILL to its process, and its pod removed at once, so that it neither gives back its lease nor comes back."""
    uid, name, node = pod["metadata"]["uid"], pod["metadata"]["name"], pod["spec"]["nodeName"]
    script = (
        f"for p in /proc/[0-9]*; do grep -qs {uid} $p/cgroup && tr '\\0' ' ' <$p/cmdline | grep -q 'm controlplane' "
        "&& kill -9 ${p#/proc/}; done; true"
    )
    cluster.on(node, "sh", "-c", script)
    cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, "--force", "--grace-period=0", "--wait=false")


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, woodfrog: Installation) -> Iterator[list[SeedJob]]:
    """One Job that is to run on, and one that is to end."""
    assert woodfrog.there
    stamp = int(time.time()) % 10**5
    made = [SeedJob(cluster, f"{name}-{stamp}") for name in ("grows", "sleeps")]
    for job in made:
        del job.manifest["spec"]["template"]["spec"]["containers"][0]["resources"]
        job.manifest["spec"]["backoffLimit"] = 100
        job.apply()
    for job in made:
        job.runs()
        job.does(20)
    yield made
    for job in made:
        job.remove()


@pytest.fixture(scope="module")
def grown(cluster: Cluster, woodfrog: Installation, database: Object, jobs: list[SeedJob]) -> Grown:
    found = Grown(cluster, woodfrog, *jobs)
    cluster.delete("job", found.asleep.name)
    found.asleep_at = found.asleep.steps()
    until(lambda: not found.asleep.pods(), 90, "the Job that sleeps has ended")
    stored = until(lambda: woodfrog.ask("get", "snapshots", found.asleep.name), 60, "its snapshot is in the log")
    assert stored
    found.containers = {found.job.name: container_of(found.job)}
    found.containerd = containerd_pids(cluster)
    more: dict[str, Any] = {
        "controlplane": {"replicas": 2}, "nats": {"replicas": 3}, "database": database,
        "networkPolicy": {"enabled": True},
    }  # fmt: skip
    began = time.monotonic()
    with pytest.raises(AssertionError, match="kubectl scale deployment/woodfrog-controlplane --replicas=0"):
        woodfrog.install(**more)
    woodfrog.scale(0)
    woodfrog.install(**more)
    print(f"grown in {time.monotonic() - began:.1f} s")
    return found


def test_growing_touches_no_container_and_no_containerd(cluster: Cluster, grown: Grown) -> None:
    assert container_of(grown.job) == grown.containers[grown.job.name]
    assert containerd_pids(cluster) == grown.containerd
    grown.job.does(grown.job.steps() + 10)
    assert broken_at(grown.job.log()) is None


def test_the_log_was_carried_over_before_any_new_control_plane_began(
    cluster: Cluster, woodfrog: Installation, grown: Grown
) -> None:
    told = json.loads(cluster.kubectl("get", "events", "-n", NAMESPACE, "-o", "json"))["items"]
    ended = [
        datetime.fromisoformat(each["lastTimestamp"]) for each in told
        if (each["involvedObject"]["name"], each["reason"]) == ("woodfrog-migrate", "Completed")
    ]  # fmt: skip
    planes = grown.pods("controlplane")
    assert len({pod["spec"]["nodeName"] for pod in planes}) == 2, "both control planes would go with one node"
    assert min(datetime.fromisoformat(each["metadata"]["creationTimestamp"]) for each in planes) >= max(ended)
    assert "sound" in woodfrog.say("log", "verify", seconds=120)
    assert grown.job.name in woodfrog.say("history", grown.job.name)


def test_three_servers_on_two_nodes_hold_every_stream(cluster: Cluster, grown: Grown) -> None:
    assert len(grown.pods("nats")) == 3
    assert {pod["spec"]["nodeName"] for pod in grown.pods("nats")} == set(cluster.nodes())
    until(grown.copied, 60, "three servers hold every stream")
    budgets = {
        each["metadata"]["name"]: each["status"]["disruptionsAllowed"] for each in cluster.list("pdb", "", NAMESPACE)
    }
    assert budgets == {"woodfrog-controlplane": 1, "woodfrog-nats": 1}
    assert {each["metadata"]["name"] for each in cluster.list("networkpolicy", "", NAMESPACE)} == {
        "woodfrog-controlplane", "woodfrog-nats",
    }  # fmt: skip


def test_what_ran_before_and_what_had_ended_before_go_on_after(woodfrog: Installation, grown: Grown) -> None:
    grown.asleep.apply()
    done = grown.job.steps()
    grown.delete_pod()
    print(f"resumed in {grown.goes_on(done):.1f} s")
    grown.asleep.goes_on(grown.asleep_at, but="")
    for job in (grown.job, grown.asleep):
        assert woodfrog.ask("why", job.name)["choice"] == "restored"
    grown.asleep.remove()


def test_a_pod_that_ends_while_the_leader_dies_goes_on_under_the_next(cluster: Cluster, grown: Grown) -> None:
    leader = until(grown.leader, 10, "somebody leads")
    standby = next(pod["metadata"]["name"] for pod in grown.pods("controlplane") if pod["metadata"]["name"] != leader)
    done = grown.job.steps()
    kill_controlplane(cluster, cluster.get("pod", leader, NAMESPACE))
    began = time.monotonic()
    grown.delete_pod()
    until(lambda: grown.leader() == standby, LEASE_SECONDS + 10, "the standby leads")
    led = time.monotonic() - began
    print(f"led after {led:.1f} s, resumed {grown.goes_on(done):.1f} s after that")
    assert led < LEASE_SECONDS + 5


def test_a_pod_that_ends_while_a_nats_server_dies_goes_on(cluster: Cluster, grown: Grown) -> None:
    until(grown.copied, 60, "three servers hold every stream")
    gone = next(pod for pod in grown.pods("nats") if pod["metadata"]["name"] == "woodfrog-nats-0")
    done = grown.job.steps()
    cluster.kubectl("delete", "pod", "woodfrog-nats-0", "-n", NAMESPACE, "--force", "--grace-period=0", "--wait=false")
    grown.delete_pod()
    print(f"resumed in {grown.goes_on(done):.1f} s")
    until(lambda: [pod for pod in grown.pods("nats") if pod["metadata"]["name"] == "woodfrog-nats-0"
                   and pod["metadata"]["uid"] != gone["metadata"]["uid"]], 90, "another server takes its place")  # fmt: skip
    until(grown.copied, 90, "three servers hold every stream again")


def test_after_all_that_the_log_is_sound(woodfrog: Installation, grown: Grown) -> None:
    assert "sound" in woodfrog.say("log", "verify", seconds=120)
    assert broken_at(grown.job.log()) is None
    assert woodfrog.nodes_ready()
