"""The mission's Job, as it stands but for what cannot exist without a registry, and the workload that stands in for its image.

The stand-in computes what can be proved afterwards: a chain of hashes, each made of the one before, written step by step
to the Job's own volume. A step that is missing, repeated or made from a state that is too old breaks the chain.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from support.images import busybox_root
from support.kube import Cluster, Object, running, until

SAMPLES = "docker.io/cedana/cedana-samples:cuda"
MANIFEST = Path(__file__).parents[2] / "examples" / "job" / "job.yaml"
LOG = "/workspace/vector.log"

_VECTOR_ADD = """\
#!/bin/sh
step=0 hash=seed
while [ ! -e /workspace/enough ]; do
    step=$((step + 1))
    hash=$(printf '%s %s' "$hash" "$step" | sha256sum | cut -c1-16)
    echo "$step $hash" >>/workspace/vector.log
    echo "$step $hash"
    sleep 0.1
done
"""


def seed_root(root: Path) -> Path:
    """Lay out the image: busybox, and the program that the manifest starts."""
    busybox_root(root)
    for applet in ("sha256sum", "cut", "printf", "git", "mount", "awk", "sort"):
        (root / "bin" / applet).symlink_to("busybox")
    program = root / "gpu_smr" / "vector_add"
    program.parent.mkdir()
    program.write_text(_VECTOR_ADD)
    program.chmod(0o755)
    (root / "workspace").mkdir()
    return root


def advertise_gpus(cluster: Cluster) -> None:
    """Give every node one GPU in name, as a device plugin would on a node that has one."""
    for node in cluster.nodes():
        patch = '{"status": {"capacity": {"nvidia.com/gpu": "1"}}}'
        cluster.kubectl("patch", "node", node, "--subresource=status", "-p", patch)


def manifest(name: str, *, checkpoint_id: str | None = None) -> Object:
    """The mission's manifest; the image without a registry and the URL without an internet are replaced, nothing else.

    Under another ``name`` it is another Job, with an id of its own.
    """
    job: Object = yaml.safe_load(MANIFEST.read_text())
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    clone = pod["initContainers"][0]
    clone["image"] = SAMPLES  # an image with the tag `latest` is pulled whenever it is used
    clone["command"][-1] = clone["command"][-1].replace("https://github.com/mirror/busybox.git", "file:///nowhere.git")
    job["metadata"]["name"] = name
    job["spec"]["template"]["metadata"]["labels"]["job-name"] = name
    pod["containers"][0]["env"][0]["value"] = checkpoint_id or name
    return job


def broken_at(text: str) -> str | None:
    """Recompute the chain of a log; say at which line it breaks, or ``None``. An unfinished last line does not count."""
    value = "seed"
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        value = hashlib.sha256(f"{value} {number}".encode()).hexdigest()[:16]
        if line != f"{number} {value}":
            return f"line {number} is {line!r}, not {f'{number} {value}'!r}"
    return None


class SeedJob:
    """One Job of the mission's kind on the cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.manifest = manifest(name)
        self.pod: Object = {}

    def apply(self) -> None:
        """Apply the manifest."""
        self.cluster.apply(self.manifest)

    def pods(self) -> list[Object]:
        """All its pods, those that are ending included."""
        return self.cluster.list("pods", f"job-name={self.name}")

    @property
    def node(self) -> str:
        """Where it runs."""
        return str(self.pod["spec"]["nodeName"])

    @property
    def pod_name(self) -> str:
        """The pod that runs."""
        return str(self.pod["metadata"]["name"])

    def runs(self, seconds: float = 90, *, but: str = "") -> Object:
        """Wait until a pod of it runs, another one than ``but`` (a uid)."""
        found = until(lambda: running(self.pods(), [but]), seconds, f"a pod of {self.name} runs: {self.told()}")
        self.pod = found[0]
        return self.pod

    def log(self) -> str:
        """What the workload itself has written."""
        return self.cluster.execute(self.pod_name, "cat", LOG, check=False)

    def steps(self) -> int:
        """How many steps it has done."""
        return self.log().count("\n")

    def does(self, steps: int, seconds: float = 60) -> int:
        """Wait until it has done so many steps in all."""
        until(lambda: self.steps() >= steps, seconds, f"{self.name} does {steps} steps")
        return self.steps()

    def goes_on(self, after: int, *, but: str, seconds: float = 120) -> int:
        """Wait until another pod goes on beyond step ``after``; the chain must be whole. Return the steps done."""
        self.runs(seconds, but=but)
        done = self.does(after + 10)
        problem = broken_at(self.log())
        assert problem is None, f"{self.name} did not go on where it was: {problem}"
        return done

    def told(self) -> str:
        """What the cluster says of its pods, for a failed test."""
        said = self.cluster.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).splitlines()
        return "\n".join(line for line in said if self.name in line)[-1500:]

    def remove(self) -> None:
        """Delete the Job and its pods."""
        self.cluster.delete("job", self.name)
        for pod in self.pods():
            self.cluster.kubectl(
                "delete", "pod", pod["metadata"]["name"], "--grace-period=1", "--wait=false", check=False
            )
