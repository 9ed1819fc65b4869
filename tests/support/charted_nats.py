"""nats-server with what the chart gives its pods: configuration, certificates, keys and variables."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.chart import ROOT, Values, one, render
from support.servers import NATS_SERVER, wait_for
from woodfrog.service.natstls import Trust


class ChartedNats:
    """The servers of one release, on loopback. Only where they listen and store is the test's."""

    def __init__(self, folder: Path, values: Values | None = None) -> None:
        self.folder = folder
        self.manifests = render(values)
        self.secret = self._data("woodfrog-nats")
        """The texts in the chart's Secret, by their keys."""
        self.pod: dict[str, Any] = one(self.manifests, "StatefulSet", "woodfrog-nats")["spec"]["template"]["spec"]
        self.count: int = one(self.manifests, "StatefulSet", "woodfrog-nats")["spec"]["replicas"]
        self.urls: list[str] = [""] * self.count
        """Where clients connect, without a scheme."""
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.tls = folder / "nats-tls"
        """Certificates as the servers' pods have them, where there are any."""
        if any(volume["name"] == "tls" for volume in self.pod["volumes"]):
            self.tls.mkdir(parents=True)
            for name, text in self._data("woodfrog-nats-tls").items():
                (self.tls / name).write_text(text)
        self.derive(self.pod["initContainers"][0], "/etc/nats-callout", folder / "nats-callout")
        with ExitStack() as held:
            made = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(self.count)]
            self._routes = [each.getsockname()[1] for each in made]

    def _data(self, name: str) -> dict[str, str]:
        data = one(self.manifests, "Secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    @property
    def trust(self) -> Trust:
        """How clients of the release trust it."""
        return Trust(self.tls / "ca.crt")

    def variables(self, container: dict[str, Any]) -> dict[str, str]:
        """A container's environment, as the kubelet makes it of values and the Secret."""
        made = {"POD_NAME": "a-pod", "WOODFROG_POD_NAME": "a-pod", "WOODFROG_POD_NAMESPACE": "wf"}
        for each in container.get("env", []):
            if "secretKeyRef" in each.get("valueFrom", {}):
                made[each["name"]] = self.secret[each["valueFrom"]["secretKeyRef"]["key"]]
            elif "value" in each:
                made[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: made.get(found[1], found[0]), each["value"])
        return made

    def derive(self, container: dict[str, Any], mounted: str, directory: Path) -> None:
        """Do what an init container does, with ``directory`` in place of what is mounted."""
        words = [str(directory) if word == mounted else word for word in container["command"]]
        assert words[:3] == ["python3", "-m", "woodfrog.isolation"]
        environment = os.environ | self.variables(container)
        subprocess.run([sys.executable, *words[1:]], env=environment, cwd=ROOT, timeout=60, check=True)

    def seeds(self, kind: str, name: str) -> Path:
        """The seeds that a pod of the release gets: its folder."""
        folder = self.folder / name
        template = one(self.manifests, kind, name)
        pod = template["spec"] if kind == "Pod" else template["spec"]["template"]["spec"]
        self.derive(pod["initContainers"][0], "/run/woodfrog-callout", folder)
        return folder

    def configure(self, place: int) -> tuple[Path, dict[str, str]]:
        """Write a server's configuration; return it and its environment."""
        folder = self.folder / f"nats-{place}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in one(self.manifests, "ConfigMap", "woodfrog-nats")["data"].items():
            put = text.replace("/var/lib/nats", str(self.folder / f"streams-{place}"))
            put = put.replace("/etc/nats-tls", str(self.tls)).replace(
                "0.0.0.0:6222", f"127.0.0.1:{self._routes[place]}"
            )
            put = put.replace("/tmp/nats.pid", str(folder / "pid"))
            (folder / name).write_text(put)
        (server,) = [each for each in self.pod["containers"] if each["name"] == "nats"]
        environment = self.variables(server) | {"POD_NAME": f"woodfrog-nats-{place}"}
        for name, value in environment.items():
            if name.startswith("ROUTE_") and value.endswith(":6222"):
                port = self._routes[int(name.removeprefix("ROUTE_"))]
                environment[name] = f"{value.rpartition('@')[0]}@127.0.0.1:{port}"
        return folder / "nats.conf", environment

    def start(self, place: int = 0) -> str:
        """Start a server; return where it takes clients."""
        config, environment = self.configure(place)
        ports = config.parent / "ports"
        ports.mkdir(exist_ok=True)
        for stale in ports.iterdir():
            stale.unlink()
        with (config.parent / "log").open("ab") as log:
            self._running[place] = subprocess.Popen(
                [
                    NATS_SERVER, "--config", config, "--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1", "--ports_file_dir", ports,
                ],
                env=os.environ | environment, stdout=log, stderr=log,
            )  # fmt: skip
        found: Path = wait_for(lambda: next(ports.glob("*.ports"), None), saying=f"it listens: {self.log(place)}")
        wait_for(lambda: found.read_text().endswith("}"), saying="all ports are told")
        self.urls[place] = json.loads(found.read_text())["nats"][0].partition("://")[2]
        return self.urls[place]

    def log(self, place: int = 0) -> str:
        """What a server has logged."""
        return (self.folder / f"nats-{place}" / "log").read_text()

    def close(self) -> None:
        """End all that run."""
        for server in self._running.values():
            server.terminate()
            server.wait(20)
