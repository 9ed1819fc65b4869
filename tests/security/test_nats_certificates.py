"""The chart's certificates for NATS: kept, renewed in time, and never on a node; and how an installation comes to TLS."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chart import Manifest, RefusedError, Values, one, pods, render
from support.chart_lookup import Cluster, cluster

pytestmark = pytest.mark.timeout(180)

YEAR = 365 * 86400
OLDER: Values = {"nats": {"tls": {"enabled": False}}}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        yield made


def certificates(manifests: list[Manifest]) -> tuple[str, str, str]:
    """The CA's, the servers' and what clients trust."""
    key = one(manifests, "Secret", "woodfrog-nats-ca-key")["data"]["ca.crt"]
    served = one(manifests, "Secret", "woodfrog-nats-tls")["data"]["tls.crt"]
    trusted = one(manifests, "Secret", "woodfrog-nats-ca")["data"]["ca.crt"]
    return key, served, base64.b64decode(trusted).decode()


def age(there: Cluster, name: str, seconds: int) -> None:
    annotations = there.objects["Secret", name]["metadata"]["annotations"]
    annotations["woodfrog.io/made-at"] = str(int(time.time()) - seconds)


def server(manifests: list[Manifest]) -> tuple[str, str, str]:
    """Its configuration, what the StatefulSet says of TLS, and what restarts its pods."""
    stateful = one(manifests, "StatefulSet", "woodfrog-nats")
    return (
        one(manifests, "ConfigMap", "woodfrog-nats")["data"]["nats.conf"],
        stateful["metadata"]["annotations"]["woodfrog.io/nats-tls"],
        stateful["spec"]["template"]["metadata"]["annotations"].get("checksum/certificate", ""),
    )


def test_certificates_stay_from_one_upgrade_to_the_next(there: Cluster) -> None:
    first = there.render({})
    there.apply(first)
    second = there.render({})
    assert certificates(first) == certificates(second)
    assert server(first) == server(second)


def test_a_certificate_is_renewed_by_an_upgrade_after_a_year_and_its_ca_after_five(there: Cluster) -> None:
    first = there.render({})
    there.apply(first)
    age(there, "woodfrog-nats-tls", YEAR + 60)
    second = there.render({})
    assert certificates(second)[0] == certificates(first)[0]
    assert certificates(second)[1] != certificates(first)[1]
    assert server(second)[2] != server(first)[2]  # so the servers are restarted

    there.apply(second)
    age(there, "woodfrog-nats-ca-key", 5 * YEAR + 60)
    third = there.render({})
    assert certificates(third)[0] != certificates(first)[0]
    trusted = certificates(third)[2]
    assert base64.b64decode(certificates(first)[0]).decode() in trusted  # beside the new one
    assert base64.b64decode(certificates(third)[0]).decode() in trusted


def test_a_first_installation_takes_nothing_in_the_clear(there: Cluster) -> None:
    for manifests in (render(), there.render({})):
        text, said, _ = server(manifests)
        assert said == "required"
        assert "handshake_first: true" in text
        assert "allow_non_tls" not in text


def test_an_upgrade_to_tls_lets_older_workers_in_until_all_are_replaced(there: Cluster) -> None:
    before = there.render(OLDER)
    assert server(before)[1] == "off"
    del one(before, "StatefulSet", "woodfrog-nats")["metadata"]["annotations"][
        "woodfrog.io/nats-tls"
    ]  # as versions before
    there.apply(before)
    first = there.render({})
    assert server(first)[1] == "transition"
    assert "allow_non_tls: true" in server(first)[0]
    assert "handshake_first: auto" in server(first)[0]

    there.apply(first)
    workers = there.objects["DaemonSet", "woodfrog-node"]
    workers["metadata"]["generation"] = 2
    workers["status"] = {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2}
    assert server(there.render({}))[1] == "transition"
    workers["status"]["updatedNumberScheduled"] = 3
    last = there.render({})
    assert server(last)[1] == "required"
    assert "allow_non_tls" not in server(last)[0]
    there.apply(last)
    assert server(there.render({}))[1] == "required"


def test_who_says_never_waits_for_nobody(there: Cluster) -> None:
    there.apply(there.render(OLDER))
    assert server(there.render({"nats": {"tls": {"allowPlain": "never"}}}))[1] == "required"


@pytest.mark.parametrize("values", [{}, {"nats": {"nodeTokens": False}}, {"nats": {"replicas": 3}}])
def test_no_private_key_is_in_a_secret_that_a_nodes_kubelet_may_read(values: Values) -> None:
    manifests = render(values)
    read = {name: mounted(pod) for name, pod in pods(manifests)}
    assert "woodfrog-nats-ca" in read["DaemonSet/woodfrog-node"]
    assert [name for name, secrets in read.items() if "woodfrog-nats-tls" in secrets] == ["StatefulSet/woodfrog-nats"]
    assert not any("woodfrog-nats-ca-key" in secrets for secrets in read.values())
    assert set(one(manifests, "Secret", "woodfrog-nats-ca")["data"]) == {"ca.crt"}


def mounted(pod: dict[str, Any]) -> set[str]:
    return {volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume}


def test_no_pod_but_the_servers_is_given_a_password_where_nodes_have_tokens() -> None:
    for name, pod in pods(render()):
        text = json.dumps(pod)
        assert "control_PASSWORD" not in text
        if name != "StatefulSet/woodfrog-nats":
            assert "PASSWORD" not in text, name
            assert "nats://" not in text, name


def test_a_secret_of_ones_own_without_the_text_for_keys_is_refused_before_anything_is_changed(there: Cluster) -> None:
    there.objects["Secret", "mine"] = {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "mine"},
        "data": {"control": "eA=="},
    }
    with pytest.raises(RefusedError, match="lacks the key callout"):
        there.render({"nats": {"existingSecret": "mine"}})


def test_urls_of_ones_own_that_show_a_password_are_refused_before_anything_is_changed(there: Cluster) -> None:
    data = {"control": base64.b64encode(b"nats://control:secret@broker:4222").decode()}
    there.objects["Secret", "urls"] = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "urls"}, "data": data}
    values: dict[str, Any] = {"nats": {"enabled": False, "existingSecret": "urls"}}
    with pytest.raises(RefusedError, match="in the clear"):
        there.render(values)
    values["nats"]["tls"] = {"enabled": False}
    (worker,) = one(there.render(values), "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]["containers"]
    assert {"name": "WOODFROG_NATS_INSECURE", "value": "on"} in worker["env"]
