"""docs/reference/support.md, made from what tests reported: ``python tests/vm/support.py FOLDER...`` adds reports to it.

A folder holds ``machine.json`` (see ``machine.py``), reports of pytest as JUnit's XML, and a file ``demo`` if the demonstration
passed: what ``tests/vm/run`` leaves in build/vm/SUITE. What is known lies in docs/reference/support.json, one record for each
machine; a newer report of a kind of tests replaces the older one. Nothing is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs/reference/support.json"
PAGE = ROOT / "docs/reference/support.md"
MACHINE = ("system", "kernel", "cgroup", "systemd", "runc", "criu", "containerd", "docker", "podman", "kubernetes")
KINDS = {
    "demo": "The demonstration: the main job from start to end (`make demo`)",
    "self-test": "The self-test of a node (`test_self_test.py`)",
    "cgroups": "Limits, statistics and namespaces of cgroups (`test_cgroups.py`)",
    "security": "Users, capabilities, seccomp, AppArmor, rlimits (`test_security_contexts.py`)",
    "programs": "Programs continue exactly, and what people ran into (`test_continuity.py`, `test_detached.py`, `test_findings_*.py`), and the pages (`test_pages_of_a_machine.py`)",
    "runtime": "The OCI runtime and the capture, under real runc and CRIU (`test_runc_*.py`, `test_worker_*.py`, `test_versions.py`)",
    "containerd": "containerd, by `ctr` and by the CRI, and its configuration (`test_engines.py`, `test_install_node.py`, `test_node_containerd_config.py`)",
    "pods": "Pods and their volumes, as a kubelet makes them (`test_pods*.py`)",
    "docker": "Docker and Compose (`test_docker.py`)",
    "podman": "Podman (`test_podman.py`)",
    "faults": "Kills, full disks, corruption (`tests/faults`)",
    "cluster": "A Kubernetes cluster, from `helm install` on (`tests/cluster`)",
    "uninstall": "`helm uninstall`, which leaves the nodes as they were (`test_90_uninstall.py`)",
}
_FILES = (
    (r"test_self_test$", "self-test"), (r"test_cgroups$", "cgroups"), (r"test_(security_contexts|privileges)$", "security"), (r"test_(continuity|detached|findings_\w+|io_uring|matrix|pages_of_a_machine)$", "programs"),
    (r"test_((runc|worker|store)_\w+|freeze_limit|versions)$", "runtime"), (r"test_(engines|install_node|node_containerd_config)$", "containerd"), (r"test_pods\w*$", "pods"), (r"test_docker(\.\w+)?$", "docker"),
    (r"test_podman(\.\w+)?$", "podman"), (r"tests\.faults\.\w+$", "faults"), (r"test_90_uninstall$", "uninstall"),
    (r"tests\.cluster\.\w+$", "cluster"),
)  # fmt: skip


_NONE = {"passed": 0, "repeated": 0, "failed": 0, "skipped": 0}


def kind_of(module: str) -> str | None:
    """Return the kind of the tests in a module, given as JUnit's class name; ``None`` for what is no row of the page."""
    return next((kind for pattern, kind in _FILES if re.search(pattern, module)), None)


def counted(folder: Path) -> dict[str, dict[str, int]]:
    """Return how many tests of each kind passed, only when they were repeated, failed, and were skipped."""
    outcomes: dict[tuple[str, str], str] = {}
    # What failed is repeated once, and its second report is read after its first.
    for report in sorted(folder.glob("*.xml"), key=lambda path: (path.stem.endswith("_again"), path.name)):
        for case in ET.parse(report).iter("testcase"):
            test = case.get("classname", ""), case.get("name", "")
            outcome = "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
            outcome = "skipped" if case.find("skipped") is not None else outcome
            repeated = outcome == "passed" and outcomes.get(test) == "failed"
            outcomes[test] = "repeated" if repeated else outcome
    counts: dict[str, dict[str, int]] = {}
    if (folder / "demo").exists():
        counts["demo"] = {**_NONE, "passed": 1}
    for (module, _), outcome in outcomes.items():
        kind = kind_of(module)
        if kind is not None:
            counts.setdefault(kind, dict(_NONE))[outcome] += 1
    return counts


def merged(
    known: list[dict[str, Any]], machine: dict[str, Any], counts: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    """Add one machine's counts to what is known."""
    identity = {key: machine.get(key) for key in MACHINE}
    rest = [row for row in known if row["machine"] != identity]
    old = next((row["kinds"] for row in known if row["machine"] == identity), {})
    fresh = {kind: {**count, "date": machine["date"]} for kind, count in counts.items()}
    rows = [*rest, {"machine": identity, "kinds": {**old, **fresh}}]
    return sorted(rows, key=lambda row: [str(row["machine"][key]) for key in MACHINE])


def render(rows: list[dict[str, Any]]) -> str:
    """Write the page."""
    return (
        "# Support\n\n"
        "Where Woodfrog was proven, by which tests, and when. This page is made from the reports of the tests\n"
        "(`make vm`, `make vm-all`, then `python tests/vm/support.py`); nothing in it is written by hand. A combination that is\n"
        "not listed may work: `woodfrog doctor`, and `woodfrog-node self-test` on a node, dump, restore and continue a container\n"
        "there and say so.\n\n"
        "What is needed in any case: x86-64, Linux 5.11 or later with CONFIG_CHECKPOINT_RESTORE, runc 1.1 or later, CRIU 3.19 or\n"
        "later. Set-up and the node image bring a CRIU of their own where the system's does not pass the self-test.\n\n"
        "CRIU 3.19 to 4.0 were not tried, because no suite of Debian has one (12 has 3.17.1, 13 has\n"
        "4.1.1, unstable 4.2.1). They are given only options that their sources know.\n\n"
        "| system | kernel | cgroup | runc | CRIU | engines | tests passed | last on |\n"
        "|---|---|---|---|---|---|---|---|\n"
        + "".join(_summary(row) for row in rows)
        + "\n"
        + "\n".join(_section(row) for row in rows)
    )


def _title(machine: dict[str, Any]) -> str:
    kubernetes = machine.get("kubernetes")
    return f"Kubernetes {kubernetes} on {machine['system']}" if kubernetes else str(machine["system"])


def _engines(machine: dict[str, Any]) -> list[str]:
    return [f"{name} {machine[name]}" for name in ("containerd", "docker", "podman") if machine.get(name)]


def _driver(machine: dict[str, Any]) -> str:
    return str(machine["cgroup"]) + (", systemd" if machine["systemd"] else "")


def _summary(row: dict[str, Any]) -> str:
    machine, counts = row["machine"], row["kinds"].values()
    passed = sum(each["passed"] + each.get("repeated", 0) for each in counts)
    date = max(each["date"] for each in counts)
    cells = (
        _title(machine), machine["kernel"], _driver(machine), machine["runc"], machine["criu"],
        ", ".join(_engines(machine)), str(passed), date,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _section(row: dict[str, Any]) -> str:
    machine = row["machine"]
    title = f"{_title(machine)}, Linux {machine['kernel']}"
    tools = (
        ", ".join([f"cgroup {_driver(machine)}; runc {machine['runc']}", f"CRIU {machine['criu']}", *_engines(machine)])
        + "."
    )
    lines = [
        f"## {title}\n",
        f"{tools}\n",
        "| what | passed | passed when repeated | failed | skipped | on |",
        "|---|---|---|---|---|---|",
    ]
    for kind, says in KINDS.items():
        count = row["kinds"].get(kind)
        if count is not None:
            numbers = [str(count.get(outcome, 0)) for outcome in _NONE]
            lines.append(f"| {says} | {' | '.join(numbers)} | {count['date']} |")
    return "\n".join(lines) + "\n"


def known() -> list[dict[str, Any]]:
    """Read what is known."""
    rows: list[dict[str, Any]] = json.loads(DATA.read_text()) if DATA.exists() else []
    return rows


def main(folders: Iterable[str]) -> None:
    """Add the reports in these folders, and write the page."""
    rows = known()
    for folder in map(Path, folders):
        rows = merged(rows, json.loads((folder / "machine.json").read_text()), counted(folder))
    DATA.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(render(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
