"""The chart over values and releases of Kubernetes: every manifest is one that the API server takes."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.chart import CHART, EVERYTHING, HELM, MATRIX, ROOT, Manifest, RefusedError, Values, one, render

from nodeworker.settings import from_environment

pytestmark = pytest.mark.timeout(120)

OLDER = ["1.20.2", "1.21.14", "1.24.17"]


def refused(manifests: list[Manifest], version: str) -> list[str]:
    """What the schemas of a release say against manifests; before 1.25, for which there are none, those of 1.25."""
    problems = []
    for each in manifests:
        if each["apiVersion"] in {"monitoring.coreos.com/v1", "cert-manager.io/v1"}:
            continue
        known = version
        if version in OLDER:
            known, each["apiVersion"] = "1.25.0", each["apiVersion"].replace("v1beta1", "v1")
        try:
            kubernetes_validate.validate(each, known, strict=True)
        except kubernetes_validate.ValidationError as problem:
            problems.append(f"{each['kind']}/{each['metadata']['name']}: {problem.message}")
    return problems


@pytest.mark.parametrize("version", ["1.20.2", "1.29.0", "1.36.0"])
@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_manifest_is_as_its_release_of_kubernetes_has_it(values: Values, version: str) -> None:
    assert refused(render(values, version=version), version) == []


@pytest.mark.parametrize("version", [*OLDER, *(f"1.{minor}.0" for minor in range(25, 37))])
def test_every_release_of_kubernetes_takes_all_that_there_can_be(version: str) -> None:
    assert refused(render(EVERYTHING, version=version), version) == []


def test_a_manifest_with_a_misspelt_field_would_be_found() -> None:
    manifests = render()
    one(manifests, "Deployment", "woodfrog-controlplane")["spec"]["replica"] = 1
    assert len(refused(manifests, "1.33.0")) == 1


def test_the_older_kinds_are_used_only_where_there_are_no_newer_ones() -> None:
    def version_of(kind: str, version: str) -> str:
        return str(next(each for each in render(EVERYTHING, version=version) if each["kind"] == kind)["apiVersion"])

    assert version_of("PodDisruptionBudget", "1.20.2") == "policy/v1beta1"
    assert version_of("PodDisruptionBudget", "1.21.0") == "policy/v1"
    assert version_of("RuntimeClass", "1.20.2") == "node.k8s.io/v1"


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_helm_finds_nothing_to_complain_of(values: Values, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    subprocess.run([HELM, "lint", "--strict", CHART, "--values", file], check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_two_releases_share_nothing_but_the_runtime_class(values: Values) -> None:
    def names(release: str, namespace: str) -> set[tuple[str, str, str]]:
        return {
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
            for each in render(values, release=release, namespace=namespace)
        }

    runtime_class = {("RuntimeClass", "", "cedana")}
    assert names("woodfrog", "a") & names("woodfrog", "b") <= runtime_class
    assert names("woodfrog", "a") & names("woodfrog-2", "a") <= runtime_class


@pytest.mark.parametrize(("values", "said"), [({}, []), (EVERYTHING, ["4"])])
def test_a_worker_is_told_how_many_dumps_at_once_only_if_somebody_says_so(values: Values, said: list[str]) -> None:
    pod = one(render(values), "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert [each["value"] for each in worker["env"] if each["name"] == "WOODFROG_DUMPS_AT_ONCE"] == said


@pytest.mark.parametrize("said", ["new-container", "snapshot"])
def test_what_the_chart_says_of_privileges_a_worker_understands(said: str) -> None:
    values: Values = {} if said == "new-container" else {"node": {"privileges": said}}
    pod = one(render(values), "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    given = {each["name"]: each["value"] for each in worker["env"] if each["name"] == "WOODFROG_PRIVILEGES"}
    assert given == {"WOODFROG_PRIVILEGES": said}
    assert from_environment(given).bounds_privileges == (said == "new-container")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"controlplane": {"replicas": 2}}, "SQLite"),
        ({"nats": {"enabled": False}}, "nats.url"),
        ({"nats": {"url": "nats://x:4222"}}, "nats.enabled"),
        ({"nats": {"enabled": False, "url": "nats://u:p@x:4222"}}, "in the clear"),
        ({"nats": {"tls": {"allowPlain": "yes"}}}, "/nats/tls/allowPlain"),
        ({"store": {"type": "s3"}}, "store.bucket"),
        ({"store": {"type": "persistentVolumeClaim"}}, "ReadWriteMany"),
        ({"store": {"encryption": {"generate": True, "existingSecret": "k"}}}, "not both"),
        ({"store": {"type": "ftp"}}, "/store/type"),
        ({"store": {"hostPath": {"path": "relative"}}}, "/store/hostPath/path"),
        ({"nats": {"replicas": 2}}, "/nats/replicas"),
        ({"node": {"htpPort": 1}}, "htpPort"),
        ({"node": {"httpPort": 9475}}, "node.probePort"),
        ({"node": {"dumpsAtOnce": -1}}, "/node/dumpsAtOnce"),
        ({"node": {"privileges": "any"}}, "/node/privileges"),
        ({"controlplane": {"resources": {"request": {}}}}, "request"),
        ({"controlplane": {"runAsUser": 0}}, "/controlplane/runAsUser"),
        ({"images": {"node": {"digest": "sha256:12"}}}, "/images/node/digest"),
        ({"logLevel": "loud"}, "/logLevel"),
        ({"database": {"existingSecret": "d", "moveFromSqlite": True}}, "no installation here whose log is in SQLite"),
        (
            {"database": {"existingSecret": "d", "moveFromSqlite": True, "sqlite": {"volume": "emptyDir"}}},
            "nothing that could be carried over",
        ),
        ({"surprise": True}, "surprise"),
        ({"api": {"enabled": True, "kubernetes": False}}, "api.tokensSecret"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(values: Values, word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        render(values)


def test_servers_of_which_there_are_several_prefer_different_nodes_and_make_do_with_one() -> None:
    for kind, component in (("Deployment", "controlplane"), ("StatefulSet", "nats")):
        name = f"woodfrog-{component}"
        (preferred,) = one(render(EVERYTHING), kind, name)["spec"]["template"]["spec"]["affinity"][
            "podAntiAffinity"
        ].items()
        assert preferred[0] == "preferredDuringSchedulingIgnoredDuringExecution"
        (term,) = preferred[1]
        assert term["podAffinityTerm"]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
        assert "affinity" not in one(render(), kind, name)["spec"]["template"]["spec"]


def test_a_rolling_update_of_several_nats_servers_takes_its_time_where_kubernetes_can() -> None:
    def seconds(values: Values, version: str) -> int | None:
        found: int | None = one(render(values, version=version), "StatefulSet", "woodfrog-nats")["spec"].get(
            "minReadySeconds"
        )
        return found

    assert [seconds(EVERYTHING, "1.36.0"), seconds(EVERYTHING, "1.20.2"), seconds({}, "1.36.0")] == [15, None, None]


def test_clients_are_never_told_the_addresses_of_pods() -> None:
    assert "no_advertise: true" in one(render(EVERYTHING), "ConfigMap", "woodfrog-nats")["data"]["nats.conf"]


def test_a_log_is_moved_by_the_owner_on_the_node_where_it_lies_before_the_roles_get_their_rights() -> None:
    pod = one(render(MATRIX["from sqlite to postgresql"]), "Job", "woodfrog-migrate")["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/hostname": "n1"}
    assert {"name": "log", "hostPath": {"path": "/srv/log", "type": "DirectoryOrCreate"}} in pod["volumes"]
    (container,) = pod["containers"]
    assert container["command"][-1] == (
        "python3 -m controlplane move sqlite+aiosqlite:////var/lib/woodfrog/log.db && python3 -m controlplane.log.admin.roles --apply"
    )
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "owner"


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(known: dict[str, Any], given: Any, path: str) -> None:
        assert known.get("description"), f"{path} is not explained"
        if "properties" not in known or not isinstance(given, dict):
            return
        assert known["additionalProperties"] is False, path
        assert set(known["properties"]) - {"global"} == set(given), path
        for key, each in given.items():
            compare(known["properties"][key], each, f"{path}.{key}")

    compare(schema, values, "")


def test_the_accounts_of_nats_are_those_of_the_isolation() -> None:
    assert (CHART / "files/accounts.conf").read_text() == (ROOT / "woodfrog/isolation/accounts.conf").read_text()


def test_a_changed_configuration_starts_its_pods_anew() -> None:
    def checksum(values: Values) -> str:
        template = one(render(values), "StatefulSet", "woodfrog-nats")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"node": {"httpPort": 1}})
    assert checksum({}) != checksum({"nats": {"extraConfig": "max_conn: 9"}})


@pytest.mark.parametrize(
    "values", [{}, {"nats": {"tls": {"enabled": False}}}, {"store": {"type": "s3", "bucket": "b"}}]
)
def test_who_installs_a_node_reaches_nats_as_the_worker_does_to_say_that_its_self_test_failed(values: Values) -> None:
    pod = one(render(values), "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]
    (install,), (worker,) = pod["initContainers"], pod["containers"]
    mounts = [each for each in worker["volumeMounts"] if each["name"].startswith("nats-")]
    assert mounts == install["volumeMounts"]
    said = {each["name"]: each for each in install["env"] if "NATS" in each["name"]}
    assert said == {each["name"]: each for each in worker["env"] if "NATS" in each["name"]} != {}


def test_probes_ask_where_no_pod_takes_their_places() -> None:
    manifests = render()
    worker = one(manifests, "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]["containers"][0]
    plane = one(manifests, "Deployment", "woodfrog-controlplane")["spec"]["template"]["spec"]["containers"][0]
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    assert {(worker[kind]["httpGet"]["host"], worker[kind]["httpGet"]["port"]) for kind in kinds} == {
        ("127.0.0.1", 9475)
    }
    assert {plane[kind]["httpGet"]["port"] for kind in kinds} == {"probes"}
    for part in (
        worker,
        plane,
    ):  # a busy machine needs minutes to import everything, and a process that is killed for it never starts
        assert part["startupProbe"]["periodSeconds"] * part["startupProbe"]["failureThreshold"] >= 600
    said = {
        each["name"]: each.get("value") for part in (worker, plane) for each in part["env"] if "ADDRESS" in each["name"]
    }
    assert said["WOODFROG_PROBE_ADDRESS"] == ":8081"
    ports = {port["targetPort"] for each in manifests if each["kind"] == "Service" for port in each["spec"]["ports"]}
    assert "probes" not in ports


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["defaults", "external database", "sqlite on a host", "store on a claim"])
def test_a_real_api_server_takes_every_manifest(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**MATRIX[name], "runtimeClass": {"create": False}}))
    subprocess.run(
        [HELM, "install", "dry", CHART, "--namespace", "default", "--dry-run=server", "--values", file],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def test_the_page_of_the_chart_is_up_to_date() -> None:
    written = runpy.run_path(str(Path(__file__).with_name("reference.py")))
    assert written["PAGE"].read_text() == written["page"](), "run: python tests/chart/reference.py"
