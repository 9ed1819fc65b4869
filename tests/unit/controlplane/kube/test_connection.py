"""Where the API server is found, and what it is shown."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.kubeapi import serving, status

from controlplane.kube import connection
from controlplane.kube.api import ApiError
from controlplane.kube.connection import Connection, find
from woodfrog.protocol.failures import FailureError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout key -out crt"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=30)
    return (folder / "crt").read_text(), (folder / "key").read_text()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def configured(path: Path, user: dict[str, Any], **cluster: Any) -> Connection:
    content = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(content))  # noqa: ASYNC240 - JSON is YAML
    return await find({"KUBECONFIG": str(path)})


async def test_a_pod_asks_as_its_service_account_with_the_token_of_now(
    tmp_path: Path, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.crt").write_text(certificate[0])
    (tmp_path / "token").write_text("first\n")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    how = await find(environment, tmp_path)
    assert how.server == "https://[fd00::1]:443"
    assert how.tls is not None
    assert how.tls.verify_mode == ssl.CERT_REQUIRED
    assert how.tls.check_hostname
    assert not how.tls.verify_flags & ssl.VERIFY_X509_STRICT
    assert len(how.tls.get_ca_certs()) == 1
    (tmp_path / "token").write_text("second")
    assert await how.credential.header() == "Bearer first"
    how.credential.refused()
    assert await how.credential.header() == "Bearer second"
    (tmp_path / "token").write_text("third")
    later = time.monotonic() + 61
    monkeypatch.setattr(connection.time, "monotonic", lambda: later)
    assert await how.credential.header() == "Bearer third"


@pytest.mark.parametrize("missing", ["token", "ca.crt", "KUBERNETES_SERVICE_HOST"])
async def test_a_pod_without_a_service_account_is_told_what_to_do(
    tmp_path: Path, certificate: tuple[str, str], missing: str
) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "api", "KUBERNETES_SERVICE_PORT": "443"}
    for name, text in (("token", "t"), ("ca.crt", certificate[0])):
        if name != missing:
            (tmp_path / name).write_text(text)
    environment.pop(missing, None)
    with pytest.raises(FailureError, match=missing) as refused:
        await find(environment, tmp_path)
    assert refused.value.failure.code == "kubernetes-config"


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "t"}, "Bearer t"),
        ({"tokenFile": "token"}, "Bearer of a file"),
        ({"username": "me", "password": "p"}, f"Basic {encoded('me:p')}"),
        ({}, None),
    ],
)
async def test_a_kubeconfig_says_as_whom(tmp_path: Path, user: dict[str, str], header: str | None) -> None:
    (tmp_path / "token").write_text("of a file")
    how = await configured(tmp_path / "config", user)
    assert (how.server, await how.credential.header()) == ("https://api:6443", header)


async def test_a_kubeconfig_says_whom_to_believe_and_which_certificate_to_show(
    tmp_path: Path, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda _, file: shown.append(Path(file).read_text()))
    certificate_and_key = f"{certificate[0]}\n{certificate[1]}\n"
    for name, text in zip(("crt", "key"), certificate, strict=True):
        (tmp_path / name).write_text(text)
    by_file = {"client-certificate": "crt", "client-key": "key"}
    by_data = {f"{name}-data": encoded((tmp_path / file).read_text()) for name, file in by_file.items()}
    for user, authority in (
        (by_file, {"certificate-authority": "crt"}),
        (by_data, {"certificate-authority-data": encoded(certificate[0]), "tls-server-name": "kubernetes"}),
    ):
        how = await configured(tmp_path / "config", user, **authority)
        assert how.tls is not None
        assert len(how.tls.get_ca_certs()) == 1
        assert how.server_name == authority.get("tls-server-name")
        assert shown.pop() == certificate_and_key
    how = await configured(tmp_path / "config", {}, **{"insecure-skip-tls-verify": True})
    assert how.tls is not None
    assert (how.tls.verify_mode, how.tls.check_hostname, shown) == (ssl.CERT_NONE, False, [])


async def test_of_several_kubeconfigs_the_first_that_names_something_counts(tmp_path: Path) -> None:
    await configured(tmp_path / "first", {"token": "first"})
    (tmp_path / "sub").mkdir()
    other = {
        "current-context": "other",
        "contexts": [{"name": "other", "context": {"cluster": "d", "user": "u"}}],
        "clusters": [{"name": "d", "cluster": {"server": "http://d"}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "sub/second").write_text(json.dumps(other))
    (tmp_path / "sub/token").write_text("second")
    first, second, absent = tmp_path / "first", tmp_path / "sub/second", tmp_path / "none"
    for files, server, header in (
        ((absent, first, second), "https://api:6443", "Bearer first"),
        ((second, first), "http://d", "Bearer second"),
    ):
        how = await find({"KUBECONFIG": ":".join(map(str, files))})
        assert (how.server, await how.credential.header()) == (server, header)


PLUGIN = """#!/bin/sh
printf '%s' "$KUBERNETES_EXEC_INFO" >>asked
i=$(($(cat count 2>/dev/null || echo 0) + 1))
echo $i >count
echo '{"kind": "ExecCredential", "status": {"token": "'$1-$OF-$i'", "expirationTimestamp": "'$UNTIL'"}}'
"""


async def test_a_plugins_credential_is_used_until_it_expires_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "login").write_text(PLUGIN)
    (tmp_path / "login").chmod(0o755)

    def plugin(**how_long: float) -> dict[str, Any]:
        until = (datetime.now(UTC) + timedelta(**how_long)).strftime("%Y-%m-%dT%H:%M:%SZ")
        env = [{"name": "OF", "value": "x"}, {"name": "UNTIL", "value": until}]
        about = {"apiVersion": "client.authentication.k8s.io/v1", "provideClusterInfo": True}
        return {"exec": {"command": "./login", "args": ["a"], "env": env, **about}}

    how = await configured(tmp_path / "config", plugin(hours=1))
    assert [await how.credential.header() for _ in range(2)] == ["Bearer a-x-1"] * 2
    how.credential.refused()
    assert await how.credential.header() == "Bearer a-x-2"
    assert '"server": "https://api:6443/"' in (tmp_path / "asked").read_text()
    how = await configured(tmp_path / "config", plugin(seconds=-1))
    assert await how.credential.header() == "Bearer a-x-4"
    (tmp_path / "login").write_text("#!/bin/sh\necho no session >&2\nexit 3\n")
    with pytest.raises(FailureError, match="no session"):
        await configured(tmp_path / "config", plugin(hours=1))


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "current-context: none", '{"current-context": "it", "contexts": [{"name": "it"}]}']
)
async def test_a_kubeconfig_that_says_nothing_useful_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(FailureError) as refused:
        await find({"KUBECONFIG": str(tmp_path / "config")})
    assert refused.value.failure.code == "kubernetes-config"


async def test_a_refused_token_is_replaced_for_the_next_request(tmp_path: Path) -> None:
    """As when a token was revoked before the minute is over."""
    (tmp_path / "token").write_text("old")
    async with serving(lambda _: status(401, "Unauthorized")) as api:
        api._how.credential = (await configured(tmp_path / "config", {"tokenFile": "token"})).credential
        (tmp_path / "token").write_text("new")
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await api.ask("GET", "/api", dict)
        assert await api._how.credential.header() == "Bearer new"
