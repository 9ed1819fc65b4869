"""``helm uninstall``: the nodes are as they were, and what ran runs on."""

from __future__ import annotations

from contextlib import suppress

import pytest
from support.install import Installation, footprint
from support.kube import Cluster, until
from support.seed import SeedJob, broken_at

pytestmark = pytest.mark.timeout(600)


def test_uninstalled_it_leaves_the_nodes_as_they_were_and_containers_running(
    cluster: Cluster, woodfrog: Installation, before: dict[str, str]
) -> None:
    job = SeedJob(cluster, "left-running")
    job.apply()
    job.runs()
    done = job.does(10)
    woodfrog.uninstall()
    assert job.does(done + 20) >= done + 20, "a protected container did not outlive the uninstallation"
    assert broken_at(job.log()) is None
    left = cluster.get("job", job.name)
    assert left["spec"]["backoffLimit"] == job.manifest["spec"]["backoffLimit"], "the user's number was not put back"
    assert not [name for name in left["metadata"].get("annotations", {}) if name.startswith("woodfrog.io/")]
    job.remove()
    until(lambda: not job.pods(), 120, "and could not be ended after it")
    for node, was in before.items():
        with suppress(AssertionError):
            until(lambda node=node, was=was: footprint(cluster, node) == was, 60, f"{node} is as it was")
        assert set(footprint(cluster, node).splitlines()) ^ set(was.splitlines()) == set(), f"{node} is not as it was"
        labels = cluster.get("node", node)["metadata"]["labels"]
        assert not [label for label in labels if label.startswith("woodfrog.io/")]
    until(lambda: not cluster.list("pods", "app.kubernetes.io/name=woodfrog", namespace=""), 90, "its pods are gone")
