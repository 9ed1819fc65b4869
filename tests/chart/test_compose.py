"""The compose file and the dashboard: they name what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chart import CHART, ROOT, one, render
from support.servers import NATS_SERVER

from controlplane.domain.invariants import Rule

pytestmark = pytest.mark.timeout(30)

COMPOSE = ROOT / "compose"
KEYS = {
    "image", "command", "environment", "user", "read_only", "cap_drop", "volumes", "ports", "healthcheck", "restart", "logging",
    "depends_on", "tmpfs", "security_opt", "privileged", "pid", "network_mode", "stop_grace_period", "extra_hosts",
}  # fmt: skip
"""Of https://github.com/compose-spec/compose-spec, what is used here."""


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return found


def test_every_part_is_there_and_says_nothing_that_compose_does_not_know() -> None:
    parts = services()
    assert set(parts) == {"nats", "postgres", "controlplane", "worker", "prometheus", "grafana"}
    for name, service in parts.items():
        assert set(service) <= KEYS, name
        for other, how in (
            (service.get("depends_on") or {}).items() if isinstance(service.get("depends_on"), dict) else ()
        ):
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in parts[other], f"{name} waits for the health of {other}, which has no check"
    assert [name for name, service in parts.items() if service.get("privileged")] == ["worker"]


def test_every_file_that_is_mounted_is_there_and_every_volume_is_declared() -> None:
    declared = set(yaml.safe_load((COMPOSE / "compose.yaml").read_text())["volumes"])
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (COMPOSE / source).exists() if source.startswith(".") else source in declared, volume


def test_ports_are_open_on_loopback_alone() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_server_takes_its_configuration() -> None:
    command = [NATS_SERVER, "-t", "--config", COMPOSE / "nats.conf"]
    subprocess.run(command, check=True, env={"NATS_PASSWORD": "p"}, capture_output=True, timeout=10)


def test_prometheus_asks_where_the_processes_listen() -> None:
    jobs = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"]
    targets = {target for job in jobs for one in job["static_configs"] for target in one["targets"]}
    parts = services()
    ports = {
        name: parts[name]["environment"]["WOODFROG_HTTP_ADDRESS"].split(":")[1] for name in ("controlplane", "worker")
    }
    assert targets == {f"controlplane:{ports['controlplane']}", f"host.docker.internal:{ports['worker']}"}


def test_every_metric_of_the_dashboard_is_one_that_there_is() -> None:
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    page = (ROOT / "docs/reference/metrics.md").read_text()
    known = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    asked = {
        re.sub(r"_bucket$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bwoodfrog_\w+", target["expr"])
    }
    assert len(asked) > 15
    assert asked <= known


def test_every_alert_is_on_metrics_that_there_are_and_the_chart_and_compose_carry_it() -> None:
    alerts = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    asked = {name for rule in rules for name in re.findall(r"\bwoodfrog_\w+", rule["expr"])}
    assert asked
    assert asked <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert all(f"`{rule['alert']}`" in page for rule in rules)
    made = one(render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule", "woodfrog")
    assert made["spec"] == alerts
    runbook = (ROOT / "docs/how-to/troubleshoot.md").read_text()
    with_links = one(
        render(
            {"metrics": {"prometheusRule": {"enabled": True, "runbooks": "https://docs.example/troubleshoot.html"}}}
        ),
        "PrometheusRule",
        "woodfrog",
    )["spec"]
    for rule in (rule for group in with_links["groups"] for rule in group["rules"]):
        assert (
            rule["annotations"].pop("runbook_url")
            == f"https://docs.example/troubleshoot.html#the-alert-{rule['alert'].lower()}"
        )
        assert f"\n## The alert {rule['alert']}\n" in runbook
    assert with_links == alerts
    assert yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["rule_files"] == ["/etc/prometheus/alerts.yaml"]


def test_the_chart_carries_the_same_dashboard_and_none_of_it_is_taken_for_a_template() -> None:
    made = one(render({"metrics": {"dashboard": {"enabled": True}}}), "ConfigMap", "woodfrog-dashboard")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["data"]["woodfrog.json"]) == json.loads((CHART / "files/dashboard.json").read_text())


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=10).returncode != 0,
    reason="docker compose is not installed",
)
def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    subprocess.run(
        ["docker", "compose", "-f", COMPOSE / "compose.yaml", "config", "--quiet"],
        check=True, capture_output=True, env={**os.environ, "HOME": str(tmp_path)}, timeout=20,
    )  # fmt: skip


def test_a_broken_rule_raises_an_alert_that_names_it_and_the_runbook_says_what_to_do_about_each() -> None:
    spec = one(render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule", "woodfrog")["spec"]
    (alert,) = (
        rule
        for group in spec["groups"]
        for rule in group["rules"]
        if "woodfrog_invariant_violations_total" in rule["expr"]
    )
    assert alert["expr"].startswith("sum by (rule) (increase(")
    assert "for" not in alert, "one is too many, and it does not last"
    assert alert["labels"] == {"severity": "critical"}
    assert "{{ $labels.rule }}" in alert["annotations"]["summary"], "the chart leaves Prometheus's own templates alone"
    page, heading = re.findall(r"(docs/\S+\.md), \"(.+)\"", alert["annotations"]["description"])[0]
    runbook = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `([\w-]+)` \|", runbook, re.MULTILINE))
    assert explained == set(Rule) - {Rule.STUCK_START, Rule.WRONG_DATA}, "those two only the chaos run finds"
