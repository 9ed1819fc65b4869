"""A containerd of the tests' own: private root, state, socket, CNI and configuration, with Woodfrog's runtime as ``cedana``."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import images
from support.time_scale import scaled

CONFIG = """\
version = 2
root = "{root}/root"
state = "{run}/state"
oom_score = 0
[grpc]
  address = "{run}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cedana]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["woodfrog.io/*"]
      container_annotations = ["woodfrog.io/*", "io.kubernetes.pod.terminationGracePeriod"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cedana.options]
        BinaryName = "{runtime}"
"""
SYSTEMD_CONFIG = f"{CONFIG}        SystemdCgroup = true\n"
"""As kubeadm's clusters have it: the runtime makes cgroups by way of systemd."""

# A link between pod and host, addressed from a test-only range; pods get a network namespace of their own as on a cluster.
_CNI = {
    "cniVersion": "0.4.0",
    "name": "woodfrog-test",
    "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.231.77.0/24"}]]}},
    ],
}


class Containerd:
    """One running containerd; ``stop`` ends it and leaves its containers alone, as a restart of the service would."""

    def __init__(self, root: Path, run: Path, runtime: Path, config: str = CONFIG) -> None:
        self.root, self.run, self.runtime = root, run, runtime
        self._config = config
        self.socket = run / "containerd.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> Path:
        """Write its configuration and its network's; return the former."""
        cni = self.root / "cni"
        cni.mkdir(parents=True, exist_ok=True)
        self.run.mkdir(parents=True, exist_ok=True)
        ipam = self.root / "ipam"
        network = json.loads(json.dumps(_CNI))
        network["plugins"][0]["ipam"]["dataDir"] = str(ipam)
        (cni / "10-test.conflist").write_text(json.dumps(network))
        config = self.root / "config.toml"
        config.write_text(self._config.format(root=self.root, run=self.run, pause=images.PAUSE, runtime=self.runtime))
        return config

    def start(self) -> None:
        """Start it."""
        config = self.prepare()
        with (self.root / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
        deadline = time.monotonic() + scaled(30)
        while self.ctr("version", check=False).returncode != 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError((self.root / "containerd.log").read_text()[-4000:])
            time.sleep(0.1)

    def load_images(self, folder: Path) -> None:
        """Make and import busybox and pause for ``ctr`` and for the CRI."""
        for archive in (images.busybox(folder), images.pause(folder)):
            for namespace in ("default", "k8s.io"):
                images.load(archive, self.socket, namespace)

    def ctr(self, *arguments: str | Path, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``ctr`` against it."""
        return subprocess.run(
            ["ctr", "--address", self.socket, *arguments], check=check, capture_output=True, text=True, timeout=timeout
        )

    def stop(self) -> None:
        """End containerd itself."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None


@contextmanager
def running(runtime: Path, config: str = CONFIG) -> Iterator[Containerd]:
    """Start one in a directory of its own, with the images that pods need, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the root user of a user namespace has to reach root file systems
        containerd = Containerd(Path(folder) / "root", Path(folder) / "run", runtime, config)
        containerd.root.mkdir()
        try:
            containerd.start()
            containerd.load_images(Path(folder))
            yield containerd
        finally:
            containerd.stop()
