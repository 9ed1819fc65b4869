"""Where the API server is and as whom to ask it: this pod's ServiceAccount, or what the files in ``KUBECONFIG`` say.

The rules are kubectl's (client-go, tools/clientcmd): of several files the first that names something counts, and paths are relative to
their file. A token in a file is read again every minute, since Kubernetes renews it, and at once when it was refused; so is that of a
credential plugin (client.authentication.k8s.io) when it expires.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from woodfrog.protocol.failures import Failure, FailureError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REREAD_SECONDS: Final = 60.0
_PLUGIN_SECONDS: Final = 60.0
_PLUGIN_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Credential:
    """What proves who asks, in a header; this one never changes."""

    def __init__(self, header: str | None = None) -> None:
        self._header = header
        self._until = float("inf")

    async def header(self) -> str | None:
        """Return the value of ``Authorization``; ``None`` if there is none.

        Raises:
            OSError, ValueError: it cannot be had now.
        """
        if time.monotonic() >= self._until:
            await asyncio.to_thread(self.renew)
        return self._header

    def refused(self) -> None:
        """Get another one for the next request, if there may be another one."""

    def renew(self) -> None:
        """Get one, which may wait for a disk or a program."""


class _TokenFile(Credential):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.renew()

    def refused(self) -> None:
        self._until = 0.0

    def renew(self) -> None:
        token = self._path.read_text().strip()
        if not token:
            raise ValueError(f"{self._path} is empty")
        self._header, self._until = f"Bearer {token}", time.monotonic() + _REREAD_SECONDS


class _Plugin(Credential):
    """A program that prints a credential."""

    def __init__(self, exec_: _Exec, server: dict[str, Any], folder: Path) -> None:
        super().__init__()
        self._exec = exec_
        self._information = {"interactive": False, **({"cluster": server} if exec_.provide_cluster_info else {})}
        self._program = exec_.command if os.sep not in exec_.command else str(folder / exec_.command)
        self.certificate: tuple[str, str] | None = None
        """A certificate and its key, if it printed them: they hold until the process ends."""
        self.renew()

    def refused(self) -> None:
        self._until = 0.0

    def renew(self) -> None:
        information = {"apiVersion": self._exec.api_version, "kind": "ExecCredential", "spec": self._information}
        environment = {**os.environ, **{each.name: each.value for each in self._exec.env or ()}}
        environment["KUBERNETES_EXEC_INFO"] = json.dumps(information)
        try:
            done = subprocess.run(
                [self._program, *(self._exec.args or ())], env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=_PLUGIN_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as problem:
            raise ValueError(f"{self._program} printed no credential in {_PLUGIN_SECONDS:g} s") from problem
        if done.returncode != 0:
            raise ValueError(f"{self._program}: {done.stderr.decode(errors='replace').strip() or done.returncode}")
        status = msgspec.json.decode(done.stdout, type=_ExecCredential).status
        self._header = f"Bearer {status.token}" if status.token else None
        self._until = float("inf")
        if status.expiration_timestamp is not None:
            self._until = time.monotonic() + status.expiration_timestamp.timestamp() - time.time()
        if status.client_certificate_data and status.client_key_data:
            self.certificate = status.client_certificate_data, status.client_key_data


class Connection(msgspec.Struct):
    """How an API server is asked."""

    server: str
    credential: Credential = msgspec.field(default_factory=Credential)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    """The name that its certificate has to have, if it is not that of the address."""
    proxy: str | None = None


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _Variable(msgspec.Struct):
    name: str
    value: str


class _Exec(msgspec.Struct, rename="camel"):
    command: str
    api_version: str
    args: list[str] | None = None
    env: list[_Variable] | None = None
    provide_cluster_info: bool = False


class _ExecStatus(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct):
    status: _ExecStatus


class _User(msgspec.Struct, rename="kebab"):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(default=None, name="tokenFile")
    username: str | None = None
    password: str | None = None
    exec: _Exec | None = None
    auth_provider: dict[str, Any] | None = None


class _Context(msgspec.Struct):
    cluster: str
    user: str | None = None


T = TypeVar("T")


async def find(environment: Mapping[str, str] = os.environ, pod: Path = SERVICE_ACCOUNT) -> Connection:
    """Find out how to ask the API server.

    Raises:
        FailureError: ``kubernetes-config``.
    """
    try:
        return await asyncio.to_thread(_of_files if environment.get("KUBECONFIG") else _of_pod, environment, pod)
    except (OSError, ValueError, yaml.YAMLError, subprocess.SubprocessError) as problem:
        raise FailureError(
            Failure(
                "kubernetes-config",
                f"the Kubernetes API cannot be found: {problem}",
                "Run in a pod that mounts its ServiceAccount's token, or set KUBECONFIG.",
            )
        ) from problem


def _of_pod(environment: Mapping[str, str], pod: Path) -> Connection:
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ValueError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    where = f"[{host}]" if ":" in host else host
    return Connection(f"https://{where}:{port}", _TokenFile(pod / "token"), _tls((pod / "ca.crt").read_text()))


def _of_files(environment: Mapping[str, str], _: Path) -> Connection:
    files = [Path(name) for name in environment["KUBECONFIG"].split(os.pathsep) if name]
    read = [(path, yaml.safe_load(path.read_text()) or {}) for path in files if path.exists()]
    if not read:
        raise ValueError(f"there is no {environment['KUBECONFIG']}")
    if not all(isinstance(content, dict) for _, content in read):
        raise ValueError(f"{environment['KUBECONFIG']} is not a kubeconfig")
    current = next((content["current-context"] for _, content in read if content.get("current-context")), None)
    if current is None:
        raise ValueError(f"{environment['KUBECONFIG']} names no current-context")
    context, _folder = _named(read, "contexts", "context", current, _Context)
    cluster, cluster_folder = _named(read, "clusters", "cluster", context.cluster, _Cluster)
    user, user_folder = _User(), Path()
    if context.user:
        user, user_folder = _named(read, "users", "user", context.user, _User)
    authority = _text(cluster.certificate_authority_data, cluster.certificate_authority, cluster_folder)
    credential = _credential(user, user_folder, cluster.server, authority)
    tls = None
    if cluster.server.startswith("https:"):
        tls = _tls(authority, verified=not cluster.insecure_skip_tls_verify)
        _present(tls, user, user_folder, credential)
    return Connection(cluster.server.rstrip("/"), credential, tls, cluster.tls_server_name, cluster.proxy_url)


def _named(read: list[tuple[Path, Any]], many: str, one: str, name: str, kind: type[T]) -> tuple[T, Path]:
    for path, content in read:
        for each in content.get(many) or ():
            if each.get("name") == name:
                return msgspec.convert(each.get(one) or {}, kind), path.parent
    raise ValueError(f"there is no {one} {name!r}")


def _text(data: str | None, file: str | None, folder: Path) -> str | None:
    if data:
        return base64.b64decode(data).decode()
    return (folder / file).read_text() if file else None


def _credential(user: _User, folder: Path, server: str, authority: str | None) -> Credential:
    if user.exec is not None:
        if user.exec.api_version not in _PLUGIN_VERSIONS:
            raise ValueError(f"{user.exec.command} speaks {user.exec.api_version}, which is not known")
        encoded = {"certificate-authority-data": base64.b64encode(authority.encode()).decode()} if authority else {}
        return _Plugin(user.exec, {"server": server, **encoded}, folder)
    if user.token_file:
        return _TokenFile(folder / user.token_file)
    if user.token:
        return Credential(f"Bearer {user.token}")
    if user.username:
        pair = base64.b64encode(f"{user.username}:{user.password or ''}".encode()).decode()
        return Credential(f"Basic {pair}")
    if user.auth_provider is not None:
        raise ValueError("auth-provider is not supported; use exec, as kubectl itself does since 1.26")
    return Credential()


def _tls(authority: str | None, *, verified: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority)
    # Many clusters' own authorities leave out extensions that Python insists on since 3.13 and every other client forgives.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _present(context: ssl.SSLContext, user: _User, folder: Path, credential: Credential) -> None:
    """Give the server a client's certificate. OpenSSL reads it from a file only."""
    pair: tuple[str | None, str | None] = (
        _text(user.client_certificate_data, user.client_certificate, folder),
        _text(user.client_key_data, user.client_key, folder),
    )
    if isinstance(credential, _Plugin) and credential.certificate is not None:
        pair = credential.certificate
    if pair[0] is None or pair[1] is None:
        return
    with tempfile.NamedTemporaryFile("w", prefix="woodfrog-") as file:  # only its owner may read it
        file.write(f"{pair[0]}\n{pair[1]}\n")
        file.flush()
        context.load_cert_chain(file.name)
