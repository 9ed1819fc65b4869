"""The kubelet's part for the tests of pods: its directories, its volumes, and what it asks of the CRI.

Paths and layouts are those of pkg/kubelet/kubelet_getters.go, pkg/volume/emptydir, pkg/volume/util/atomic_writer.go and
pkg/volume/util/subpath; the security contexts those of pkg/kubelet/kuberuntime.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from support import images
from support.cri import Cri

RUNNING, EXITED = 1, 2
HOST_USERS = 200_000
"""The first of the node's users that a pod with ``hostUsers: false`` is mapped to."""
_MASKED = ("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
           "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware")  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def mount(*command: str | Path) -> None:
    subprocess.run(["mount", *command], check=True, capture_output=True, timeout=20)


class Pod:
    """One pod on the node: a directory of the kubelet's and a sandbox."""

    def __init__(
        self,
        kubelet: Kubelet,
        name: str,
        *,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        host_network: bool = False,
        share_pids: bool = False,
        groups: Sequence[int] = (),
        privileged: bool = False,
        host_users: bool = True,
    ) -> None:
        self.kubelet, self.name, self.uid = kubelet, name, str(uuid.uuid4())
        self.folder = kubelet.root / "pods" / self.uid
        self.folder.mkdir(parents=True)
        (self.folder / "etc-hosts").write_text(f"127.0.0.1\tlocalhost\n10.0.0.9\t{name}\n")
        self.groups = list(groups)
        self._attempts: dict[str, int] = {}
        self._mounted: list[Path] = []
        self.containers: list[str] = []
        messages, mode = kubelet.cri.messages, kubelet.cri.messages.NamespaceMode.Value
        self._namespaces = messages.NamespaceOption(
            network=mode("NODE" if host_network else "POD"), pid=mode("POD" if share_pids else "CONTAINER")
        )
        if not host_users:
            mapping = messages.IDMapping(host_id=HOST_USERS, container_id=0, length=1 << 16)
            self._namespaces.userns_options.CopyFrom(
                messages.UserNamespace(mode=mode("POD"), uids=[mapping], gids=[mapping])
            )
        self.config = messages.PodSandboxConfig(
            metadata=messages.PodSandboxMetadata(name=name, uid=self.uid, namespace=namespace),
            hostname="" if host_network else name,
            log_directory=str(kubelet.root / "logs" / f"{namespace}_{name}_{self.uid}"),
            annotations=dict(annotations or {}),
            linux=messages.LinuxPodSandboxConfig(
                cgroup_parent=kubelet.cgroup_parent(self.uid),
                security_context=messages.LinuxSandboxSecurityContext(
                    namespace_options=self._namespaces, supplemental_groups=self.groups, privileged=privileged
                ),
            ),
        )
        self.sandbox = kubelet.cri.run_sandbox(self.config, "cedana")

    def empty_dir(self, name: str, *, memory: bool = False) -> Path:
        """Make the directory of an emptyDir, a tmpfs for ``medium: Memory``."""
        place = self.folder / "volumes" / "kubernetes.io~empty-dir" / name
        if not place.exists():
            place.mkdir(parents=True)
            if memory:
                mount("-t", "tmpfs", "tmpfs", place)
                self._mounted.append(place)
            place.chmod(0o777)
        return place

    def part(self, volume: Path, part: str, container: str, number: int) -> Path:
        """Bind a ``subPath`` of a volume to where the kubelet does."""
        (volume / part).mkdir(exist_ok=True)
        place = self.folder / "volume-subpaths" / volume.name / container / str(number)
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", volume / part, place)
        self._mounted.append(place)
        return place

    def projected(self, plugin: str, name: str, files: Mapping[str, str]) -> Path:
        """Make a volume as the kubelet's atomic writer does: files behind ``..data``, a link to a directory named by the time."""
        place = self.folder / "volumes" / f"kubernetes.io~{plugin}" / name
        place.mkdir(parents=True, exist_ok=True)
        payload = place / f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{time.monotonic_ns() % 10**9}"
        payload.mkdir()
        for file, text in files.items():
            (payload / file).write_text(text)
            with suppress(FileExistsError):
                (place / file).symlink_to(f"..data/{file}")
        (place / "..data_tmp").symlink_to(payload.name)
        (place / "..data_tmp").rename(place / "..data")
        return place

    def create(
        self,
        name: str,
        command: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path | str] | None = None,
        *,
        read_only: Sequence[str] = (),
        image: str = images.BUSYBOX,
        tty: bool = False,
        stdin: bool = False,
        memory_bytes: int = 0,
        image_volumes: Mapping[str, str] | None = None,
        cdi_devices: Sequence[str] = (),
        **security: Any,
    ) -> str:
        """Create a container as the kubelet would; ``security`` are fields of the CRI's security context."""
        messages = self.kubelet.cri.messages
        attempt = self._attempts.get(name, -1) + 1
        self._attempts[name] = attempt
        termination = self.folder / "containers" / name / uuid.uuid4().hex[:8]
        termination.parent.mkdir(parents=True, exist_ok=True)
        termination.touch(mode=0o666)
        places = {"/etc/hosts": self.folder / "etc-hosts", "/dev/termination-log": termination, **(mounts or {})}
        security.setdefault("supplemental_groups", self.groups)
        security.setdefault("masked_paths", _MASKED)
        security.setdefault("readonly_paths", _READ_ONLY)
        if "drop" in security:
            security["capabilities"] = messages.Capability(drop_capabilities=security.pop("drop"))
        if "seccomp" in security:
            kind = messages.SecurityProfile.ProfileType.Value(security["seccomp"])
            security["seccomp"] = messages.SecurityProfile(profile_type=kind)
        for number in ("run_as_user", "run_as_group"):
            if number in security:
                security[number] = messages.Int64Value(value=security[number])
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name, attempt=attempt),
            image=messages.ImageSpec(image=image),
            command=["sh", "-c", command] if isinstance(command, str) else list(command),
            envs=[messages.KeyValue(key=key, value=value) for key, value in (env or {}).items()],
            mounts=[
                messages.Mount(container_path=inside, host_path=str(out), readonly=inside in read_only)
                for inside, out in places.items()
            ]
            + [
                messages.Mount(container_path=inside, image=messages.ImageSpec(image=volume), readonly=True)
                for inside, volume in (image_volumes or {}).items()
            ],
            CDI_devices=[messages.CDIDevice(name=each) for each in cdi_devices],
            annotations={
                "io.kubernetes.container.restartCount": str(attempt),
                "io.kubernetes.pod.terminationGracePeriod": "45",
            },
            log_path=f"{name}_{attempt}.log",
            tty=tty,
            stdin=stdin,
            linux=messages.LinuxContainerConfig(
                resources=messages.LinuxContainerResources(cpu_shares=2, memory_limit_in_bytes=memory_bytes),
                security_context=messages.LinuxContainerSecurityContext(namespace_options=self._namespaces, **security),
            ),
        )
        container = self.kubelet.cri.create_container(self.sandbox, self.config, config)
        self.containers.append(container)
        return container

    def start(self, name: str, *arguments: Any, **more: Any) -> str:
        """Create and start a container, and wait until it runs."""
        container = self.create(name, *arguments, **more)
        self.kubelet.cri.start(container)
        return container

    def init(self, name: str, command: str, mounts: Mapping[str, Path | str]) -> None:
        """Run an init container to its end."""
        container = self.start(name, command, None, mounts)
        assert self.kubelet.cri.wait_for(container, EXITED).exit_code == 0

    def log(self, name: str, attempt: int = 0) -> list[str]:
        """What ``kubectl logs`` would show."""
        path = Path(self.config.log_directory) / f"{name}_{attempt}.log"
        return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]

    def stop(self, grace_seconds: int = 3) -> None:
        """Stop all containers at once, as for a deleted pod; a dump at the stop signal is not counted in the grace period."""
        with ThreadPoolExecutor(max_workers=8) as threads:
            list(threads.map(lambda each: self.kubelet.cri.stop(each, grace_seconds), self.containers))

    def remove(self) -> None:
        """Remove the pod and all that the kubelet had made for it."""
        for container in self.containers:
            self.kubelet.cri.remove_container(container)
        self.kubelet.cri.remove_pod(self.sandbox)
        self.kubelet.remove_cgroup(self.uid)
        for place in reversed(self._mounted):
            subprocess.run(["umount", place], check=True, capture_output=True, timeout=20)
        shutil.rmtree(self.folder)


class Kubelet:
    """A kubelet's root directory; its name is nobody's default, so that nothing relies on one."""

    def __init__(self, cri: Cri, root: Path, *, systemd: bool = False) -> None:
        """``systemd``: the cgroup driver, which must be the container engine's, too."""
        self.cri, self.root = cri, root
        self._systemd = systemd
        self.pods: list[Pod] = []

    def cgroup_parent(self, uid: str) -> str:
        """Name a pod's cgroup as pkg/kubelet/cm/cgroup_manager_linux.go does."""
        if self._systemd:
            return f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
        return f"/kubepods/besteffort/pod{uid}"

    def remove_cgroup(self, uid: str) -> None:
        """Remove a pod's cgroup, which its containers have left."""
        if self._systemd:
            subprocess.run(["systemctl", "stop", self.cgroup_parent(uid)], check=True, capture_output=True, timeout=30)
            return
        for cgroup in Path("/sys/fs/cgroup").glob(f"**/pod{uid}"):
            for folder in (*cgroup.glob("*"), cgroup):
                with suppress(OSError):
                    folder.rmdir()

    def pod(self, name: str, **more: Any) -> Pod:
        """Start a pod's sandbox; the pod is removed at the latest when the test ends."""
        pod = Pod(self, name, **more)
        self.pods.append(pod)
        return pod

    def move(self, pod: Pod, name: str, **more: Any) -> Pod:
        """Delete a pod and start the next one."""
        pod.stop()
        pod.remove()
        self.pods.remove(pod)
        return self.pod(name, **more)

    def close(self) -> None:
        """Remove what is left."""
        for pod in self.pods:
            with suppress(grpc.RpcError):
                pod.stop(1)
            pod.remove()


@contextmanager
def running(cri: Cri, root: Path, *, systemd: bool = False) -> Iterator[Kubelet]:
    """A kubelet for one test."""
    kubelet = Kubelet(cri, root, systemd=systemd)
    try:
        yield kubelet
    finally:
        kubelet.close()
