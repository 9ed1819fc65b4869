"""The tutorial about a cluster, typed as it stands on this one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import yaml
from support.console import pages_of
from support.install import Installation
from support.kube import BIN, Cluster
from support.seed import manifest
from support.terminal import desk

pytestmark = pytest.mark.timeout(420)

JOB = "examples/job/job.yaml"


@pytest.mark.parametrize("page", pages_of("cluster"))
def test_a_page_does_what_it_shows(page: str, cluster: Cluster, woodfrog: Installation) -> None:
    """The Job's image is the one that a cluster without a registry has, and what an API server of 1.20 does not know is left out."""
    job = manifest("cuda-vector-add-job", checkpoint_id="job-preemption-test-3")
    for newer in ("completionMode", "podReplacementPolicy"):
        job["spec"].pop(newer, None)
    with tempfile.TemporaryDirectory(prefix="wf-") as path:
        file = Path(path) / "job.yaml"
        file.write_text(yaml.safe_dump(job, sort_keys=False))
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        try:
            with desk(Path(path), environment, {f"-f {JOB}": f"-f {file}"}) as made:
                made.follow(page, "cluster")
        finally:
            cluster.kubectl("delete", "job", "cuda-vector-add-job", "--ignore-not-found", "--wait=false")
