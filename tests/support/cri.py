"""A small CRI client: pods and containers as the kubelet would ask for them."""

from __future__ import annotations

import importlib
import re
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_tools import protoc

from support import images
from support.time_scale import scaled


def _stubs(folder: Path) -> tuple[Any, Any]:
    here = Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    if protoc.main(["protoc", f"-I{here}", f"--python_out={folder}", f"--grpc_python_out={folder}", "cri.proto"]) != 0:
        raise AssertionError("cri.proto does not compile")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("cri_pb2"), importlib.import_module("cri_pb2_grpc")


class Cri:
    """The CRI of the containerd behind ``socket``."""

    def __init__(self, socket: Path, scratch: Path) -> None:
        self.messages, services = _stubs(scratch / "stubs")
        self._logs = scratch / "logs"
        # The kubelet's default: processes of their own, network and IPC of the pod.
        self._namespaces = self.messages.NamespaceOption(pid=self.messages.NamespaceMode.Value("CONTAINER"))
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._runtime = services.RuntimeServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def run_pod(self, name: str, *, handler: str = "cedana", namespace: str = "default") -> tuple[str, Any]:
        """Start a pod's sandbox; return its id and its configuration."""
        config = self.messages.PodSandboxConfig(
            metadata=self.messages.PodSandboxMetadata(name=name, uid=str(uuid.uuid4()), namespace=namespace),
            hostname=name,
            log_directory=str(self._logs / name),
            linux=self.messages.LinuxPodSandboxConfig(
                security_context=self.messages.LinuxSandboxSecurityContext(namespace_options=self._namespaces)
            ),
        )
        Path(config.log_directory).mkdir(parents=True, exist_ok=True)
        request = self.messages.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return self._runtime.RunPodSandbox(request, timeout=scaled(60)).pod_sandbox_id, config

    def create(self, pod: str, config: Any, command: list[str], env: dict[str, str], mounts: dict[str, str]) -> str:
        """Create a container in a pod; return its id."""
        container = self.messages.ContainerConfig(
            metadata=self.messages.ContainerMetadata(name="main"),
            image=self.messages.ImageSpec(image=images.BUSYBOX),
            command=command,
            envs=[self.messages.KeyValue(key=key, value=value) for key, value in env.items()],
            mounts=[self.messages.Mount(container_path=inside, host_path=out) for inside, out in mounts.items()],
            log_path="main.log",
            linux=self.messages.LinuxContainerConfig(
                security_context=self.messages.LinuxContainerSecurityContext(namespace_options=self._namespaces)
            ),
        )
        request = self.messages.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
        return str(self._runtime.CreateContainer(request, timeout=scaled(120)).container_id)

    def run_sandbox(self, config: Any, handler: str) -> str:
        """Start the sandbox of a pod that is described in full; return its id."""
        Path(config.log_directory).mkdir(parents=True, exist_ok=True)
        request = self.messages.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return str(self._runtime.RunPodSandbox(request, timeout=scaled(60)).pod_sandbox_id)

    def create_container(self, pod: str, config: Any, container: Any) -> str:
        """Create a container that is described in full; return its id."""
        request = self.messages.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
        return str(self._runtime.CreateContainer(request, timeout=scaled(120)).container_id)

    def start(self, container: str) -> None:
        """Start a created container."""
        self._runtime.StartContainer(self.messages.StartContainerRequest(container_id=container), timeout=scaled(60))

    def stop(self, container: str, grace_seconds: int = 30) -> None:
        """Stop a container as the kubelet does: the stop signal, then SIGKILL after the grace period."""
        request = self.messages.StopContainerRequest(container_id=container, timeout=grace_seconds)
        self._runtime.StopContainer(request, timeout=scaled(grace_seconds + 60))

    def resize(self, container: str, memory_bytes: int) -> None:
        """Change a running container's limit, as the kubelet does for a pod that is resized in place."""
        resources = self.messages.LinuxContainerResources(memory_limit_in_bytes=memory_bytes)
        request = self.messages.UpdateContainerResourcesRequest(container_id=container, linux=resources)
        self._runtime.UpdateContainerResources(request, timeout=scaled(20))

    def version(self) -> tuple[int, ...]:
        """Return the engine's version."""
        found = self._runtime.Version(self.messages.VersionRequest(version="v1"), timeout=scaled(20)).runtime_version
        return tuple(int(number) for number in re.findall(r"\d+", found)[:2])

    def status(self, container: str) -> Any:
        """Ask for a container's status."""
        request = self.messages.ContainerStatusRequest(container_id=container)
        return self._runtime.ContainerStatus(request, timeout=scaled(20)).status

    def exec(self, container: str, *command: str, seconds: int = 20) -> str:
        """Run a command inside and return what it printed."""
        request = self.messages.ExecSyncRequest(container_id=container, cmd=list(command), timeout=int(scaled(seconds)))
        answer = self._runtime.ExecSync(request, timeout=scaled(seconds + 10))
        assert answer.exit_code == 0, answer.stderr.decode()
        return str(answer.stdout.decode())

    def remove_container(self, container: str) -> None:
        """Remove a container as the kubelet does: killed first if it still runs, and again until the engine agrees."""
        request = self.messages.RemoveContainerRequest(container_id=container)
        deadline = time.monotonic() + scaled(30)
        while True:
            try:
                self._runtime.RemoveContainer(request, timeout=scaled(60))
            except grpc.RpcError as problem:
                if "still running" not in str(problem) or time.monotonic() > deadline:
                    raise
                self.stop(container, 0)
                time.sleep(0.2)
            else:
                return

    def remove_pod(self, pod: str) -> None:
        """Stop and remove a pod."""
        self._runtime.StopPodSandbox(self.messages.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=scaled(60))
        self._runtime.RemovePodSandbox(self.messages.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=scaled(60))

    def wait_for(self, container: str, state: int, seconds: float = 20) -> Any:
        """Wait until a container is in ``state``."""
        deadline = time.monotonic() + scaled(seconds)
        while (status := self.status(container)).state != state:
            if time.monotonic() > deadline:
                raise AssertionError(f"container is {status}, not in state {state}")
            time.sleep(0.1)
        return status
