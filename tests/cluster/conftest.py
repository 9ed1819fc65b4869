"""One cluster and one installation for all tests here; each test has ids and objects of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.install import Installation, footprint, installed
from support.kube import Cluster
from support.seed import SAMPLES, advertise_gpus, seed_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster, with the images that the tests run."""
    assert os.environ.get("WOODFROG_E2E_CLUSTER"), "WOODFROG_E2E_CLUSTER names no adapter: see tests/cluster/README.md"
    found = Cluster()
    assert len(found.nodes()) >= 2, "these tests need two nodes that are ready"
    folder = tmp_path_factory.mktemp("images")
    found.adapt("load", images.pack(seed_root(folder / "samples"), SAMPLES, folder / "samples.tar", []))
    advertise_gpus(found)
    found.apply(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "indiv-priority"}, "value": 1000},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 100000},
    )  # fmt: skip
    return found


@pytest.fixture(scope="session")
def before(cluster: Cluster) -> dict[str, str]:
    """What lay on each node before anything was installed."""
    return {node: footprint(cluster, node) for node in cluster.nodes()}


@pytest.fixture(scope="session")
def woodfrog(cluster: Cluster, before: dict[str, str]) -> Iterator[Installation]:
    """Woodfrog, installed by helm; uninstalled at the end if no test did."""
    assert before
    with installed(cluster) as found:
        yield found


@pytest.fixture(autouse=True)
def _everything_schedulable(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no node cordoned, whatever became of the test."""
    yield
    found: Cluster = request.getfixturevalue("cluster")
    for node in found.nodes():
        found.kubectl("uncordon", node, check=False)
