"""What the chart's pods may do: on their nodes, and at the API server."""

from __future__ import annotations

import pytest
from support.chart import MATRIX, Manifest, containers, pods, render

pytestmark = pytest.mark.timeout(60)

RIGHTS = {
    # What each ServiceAccount may do, in its namespace (Role) or everywhere (ClusterRole).
    "Role/woodfrog-controlplane": {
        ("coordination.k8s.io", "leases", "", "create"),
        ("coordination.k8s.io", "leases", "woodfrog-controlplane", "get update"),
        ("", "configmaps", "", "create"),
        ("", "configmaps", "woodfrog-log-head", "update"),
        ("", "pods", "", "get"),
    },
    "ClusterRole/wf-woodfrog-controlplane": {
        ("", "pods nodes", "", "get list watch"),
        ("", "nodes", "", "patch"),  # the label woodfrog.io/ready
        ("", "events", "", "create list"),  # to list: the scheduler's Event says whom a pod was preempted by
        ("events.k8s.io", "events", "", "create"),
        ("batch", "jobs", "", "get list watch patch"),  # backoffLimit is kept ahead of preemptions
        ("batch", "jobs/finalizers", "", "update"),
        ("", "pods", "", "create"),  # in place of a preempted one
    },
    "ClusterRole/wf-woodfrog-tokens": {("authentication.k8s.io", "tokenreviews", "", "create")},
    "Role/woodfrog-uninstall": {
        ("apps", "daemonsets", "woodfrog-node", "get delete"),
        ("apps", "daemonsets", "woodfrog-uninstall", "get"),
        ("", "pods", "", "list"),
    },
    "ClusterRole/wf-woodfrog-uninstall": {("", "nodes", "", "list patch")},
    "Role/woodfrog-give-back-jobs": {("", "pods", "", "list")},
    "ClusterRole/wf-woodfrog-give-back-jobs": {("batch", "jobs", "", "get list patch")},
}


def said(rule: Manifest) -> tuple[str, str, str, str]:
    words = ("apiGroups", "resources", "resourceNames", "verbs")
    groups, resources, names, verbs = (" ".join(rule.get(word, [])) for word in words)
    return groups, resources, names, verbs


def test_the_rights_at_the_api_server_are_exactly_these() -> None:
    roles = [each for each in render() if each["kind"] in {"Role", "ClusterRole"}]
    assert {f"{each['kind']}/{each['metadata']['name']}": set(map(said, each["rules"])) for each in roles} == RIGHTS


def test_the_api_may_ask_who_somebody_is_and_nothing_more() -> None:
    roles = [each for each in render({"api": {"enabled": True}}) if each["kind"] in {"Role", "ClusterRole"}]
    assert {f"{each['kind']}/{each['metadata']['name']}": set(map(said, each["rules"])) for each in roles} == RIGHTS | {
        "ClusterRole/wf-woodfrog-api": {
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
        }
    }


@pytest.mark.parametrize("api", [{"tls": {"existingSecret": "t"}}, {}])
def test_the_api_is_reached_from_outside_the_pod_by_tls_alone(api: dict[str, object]) -> None:
    manifests = render({"api": {"enabled": True, **api}, "networkPolicy": {"enabled": True}})
    pod = dict(pods(manifests))["Deployment/woodfrog-controlplane"]
    environment = {each["name"]: each.get("value") for each in containers(pod)[-1]["env"]}
    assert environment["WOODFROG_API_ADDRESS"] == (":8443" if api else "127.0.0.1:8443")
    assert ("WOODFROG_API_CERTIFICATE_FILE" in environment) == bool(api)
    ports = {
        each["kind"]: [str(port.get("name", port.get("port"))) for port in ports]
        for each in manifests
        if each["metadata"]["name"] == "woodfrog-controlplane" and each["kind"] in {"Service", "NetworkPolicy"}
        for ports in [each["spec"].get("ports") or each["spec"]["ingress"][0]["ports"]]
    }
    assert ports == {kind: ["http", "api"] if api else ["http"] for kind in ("Service", "NetworkPolicy")}


def test_actions_over_the_api_and_traces_are_off_unless_they_are_asked_for() -> None:
    wanted = {"WOODFROG_API_ACTIONS": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    for values, expected in (
        ({"api": {"enabled": True}}, {}),
        ({"api": {"enabled": True, "actions": True}, "tracing": {"endpoint": "http://c:4318"}}, wanted),
    ):
        found = dict(pods(render(values)))
        plane, node = (
            {each["name"]: each.get("value") for each in containers(found[name])[-1]["env"]}
            for name in ("Deployment/woodfrog-controlplane", "DaemonSet/woodfrog-node")
        )
        assert {name: plane[name] for name in wanted if name in plane} == expected
        assert node.get("OTEL_EXPORTER_OTLP_ENDPOINT") == expected.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        assert "WOODFROG_API_ACTIONS" not in node


def test_without_the_switch_nothing_may_create_pods_or_follow_jobs() -> None:
    rules = [
        said(rule)
        for each in render({"controlplane": {"preserveJobs": False}})
        if each["kind"] in {"Role", "ClusterRole"}
        for rule in each["rules"]
    ]
    assert [rule for rule in rules if "jobs" in rule[1]] == [("batch", "jobs", "", "get list patch")]  # to put it back
    assert not [rule for rule in rules if "pods" in rule[1] and "create" in rule[3]]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_nothing_is_privileged_but_what_works_on_the_nodes(values: dict[str, object]) -> None:
    for name, pod in pods(render(values)):
        on_node = name in {"DaemonSet/woodfrog-node", "DaemonSet/woodfrog-uninstall"}
        assert bool(pod.get("hostPID")) == bool(pod.get("hostNetwork")) == on_node, name
        for each in containers(pod):
            security = each["securityContext"]
            if on_node and each["name"] != "done":
                assert security == {"privileged": True, "runAsUser": 0}
                continue
            assert not security.get("privileged")
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            if (
                each["name"] == "own-folder"
            ):  # gives a folder on the host, which the kubelet makes as root, to the pod's user
                assert security["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
                continue
            assert "add" not in security["capabilities"]
            if not on_node:
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert pod["securityContext"]["runAsUser"] > 0
                assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
                assert not security.get("runAsUser")


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_folders_of_the_host_are_mounted_for_the_log_alone(values: dict[str, object]) -> None:
    mounted = {
        (name, volume["name"])
        for name, pod in pods(render(values))
        for volume in pod.get("volumes", [])
        if "hostPath" in volume
    }
    assert mounted <= {("Deployment/woodfrog-controlplane", "log"), ("Job/woodfrog-migrate", "log")}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_container_asks_for_resources_and_every_server_can_be_probed(values: dict[str, object]) -> None:
    for name, pod in pods(render(values)):
        for each in containers(pod):
            assert each["resources"]["requests"]["memory"], (name, each["name"])
            assert each["imagePullPolicy"] == "IfNotPresent"
        limited = [bool(each["resources"].get("limits", {}).get("memory")) for each in pod["containers"]]
        unlimited_first = any(
            not each["resources"].get("limits", {}).get("memory") for each in pod.get("initContainers", [])
        )
        # The kubelet gives a pod whose containers all have limits their sum as its own, whatever its init containers need.
        assert not (all(limited) and unlimited_first), name
        if name.split("/")[0] in {"Deployment", "StatefulSet"} or name == "DaemonSet/woodfrog-node":
            for each in pod["containers"]:
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(each)
        assert pod.get("automountServiceAccountToken") is not None, name
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_port_names_its_protocol(values: dict[str, object]) -> None:
    """Server-side apply on a 1.20 API server refuses a port without: the schema there has no default."""
    for each in render(values):
        ports = each["spec"].get("ports", []) if each["kind"] == "Service" else []
        assert all("protocol" in port for port in ports)
    for _, pod in pods(render(values)):
        assert all("protocol" in port for each in containers(pod) for port in each.get("ports", []))


def test_only_pods_that_ask_the_api_server_have_a_token() -> None:
    with_token = {name for name, pod in pods(render(MATRIX["everything"])) if pod["automountServiceAccountToken"]}
    assert with_token == {
        "Deployment/woodfrog-controlplane",
        "Job/woodfrog-uninstall-stop-nodes",
        "Job/woodfrog-uninstall-await-uninstalled",
        "Job/woodfrog-give-back-jobs",
    }


def test_the_workers_run_on_every_node_whatever_its_taints() -> None:
    (worker,) = [pod for name, pod in pods(render()) if name == "DaemonSet/woodfrog-node"]
    assert worker["tolerations"] == [{"operator": "Exists"}]
    assert worker["priorityClassName"] == "system-node-critical"
    assert worker["dnsPolicy"] == "ClusterFirstWithHostNet"


def test_the_hooks_end_the_workers_before_the_nodes_are_put_back() -> None:
    weights = {
        each["metadata"]["name"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in render()
        if each["kind"] in {"Job", "DaemonSet"}
        and each["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"
    }
    assert sorted(weights, key=lambda name: weights[name]) == [
        "woodfrog-uninstall-stop-nodes",
        "woodfrog-uninstall",
        "woodfrog-uninstall-await-uninstalled",
    ]
    assert len(set(weights.values())) == 3


def test_workers_have_no_rights_at_the_api_server_and_the_class_selects_by_what_somebody_sets() -> None:
    bound = [
        subject["name"]
        for each in render()
        if each["kind"].endswith("RoleBinding")
        for subject in each["subjects"]
        if subject["kind"] == "ServiceAccount"
    ]
    assert "woodfrog-node" not in bound
    for watched in (True, False):
        (kind,) = [each for each in render({"controlplane": {"kubernetes": watched}}) if each["kind"] == "RuntimeClass"]
        assert ("scheduling" in kind) == watched
