"""docs/reference/support.md, made from what tests reported: ``python tests/vm/support.py FOLDER...`` adds reports to it.

A folder holds ``machine.json`` (see ``machine.py``), reports of pytest as JUnit's XML, and a file ``demo`` if the demonstration
passed: what ``tests/vm/run`` leaves in build/vm/SUITE. What is known lies in docs/reference/support.json: of each machine the
last outcome of every test and its date, so that the whole, which takes hours, may be run in parts. Nothing is written by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
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


_FOLDERS = ("tests/e2e", "tests/faults", "tests/cluster", "tests/integration/nodeworker/host")
_OUTCOMES = ("passed", "repeated", "failed", "skipped")
_UNNAMED = "unnamed::"
"""Tests that were reported when the page knew their number only. The first report of the kind that names its tests replaces them."""
Outcomes = dict[str, str]
"""Of each test, as ``test_pods::test_that_it_goes_on[case]``: ``passed``, ``repeated`` (passed when it was repeated), ``failed`` or ``skipped``."""


def kind_of(module: str) -> str | None:
    """Return the kind of the tests in a module, given as JUnit's class name; ``None`` for what is no row of the page."""
    if not module.startswith(tuple(folder.replace("/", ".") for folder in _FOLDERS)):
        return None  # unit tests have the same names
    return next((kind for pattern, kind in _FILES if re.search(pattern, module)), None)


def reported(folder: Path) -> dict[str, Outcomes]:
    """Return what became of the tests of each kind."""
    outcomes: dict[tuple[str, str], str] = {}
    # What failed is repeated once, and its second report is read after its first.
    for report in sorted(folder.glob("*.xml"), key=lambda path: (path.stem.endswith("_again"), path.name)):
        for case in ET.parse(report).iter("testcase"):
            test = case.get("classname", ""), case.get("name", "")
            outcome = "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
            outcome = "skipped" if case.find("skipped") is not None else outcome
            repeated = outcome == "passed" and outcomes.get(test) == "failed"
            outcomes[test] = "repeated" if repeated else outcome
    found: dict[str, Outcomes] = {"demo": {"demo": "passed"}} if (folder / "demo").exists() else {}
    for (module, name), outcome in outcomes.items():
        kind = kind_of(module)
        if kind is not None:
            file = next(part for part in module.split(".") if part.startswith("test_"))
            found.setdefault(kind, {})[f"{file}::{name}"] = outcome
    return found


def merged(known: list[dict[str, Any]], machine: dict[str, Any], outcomes: dict[str, Outcomes]) -> list[dict[str, Any]]:
    """Add what became of tests on one machine to what is known."""
    identity = {key: machine.get(key) for key in MACHINE}
    rest = [row for row in known if row["machine"] != identity]
    old = next((row["kinds"] for row in known if row["machine"] == identity), {})
    kinds = {kind: dict(tests) for kind, tests in old.items()}
    for kind, tests in outcomes.items():
        named = {test: result for test, result in kinds.get(kind, {}).items() if not test.startswith(_UNNAMED)}
        kinds[kind] = named | {test: [outcome, machine["date"]] for test, outcome in tests.items()}
    rows = [*rest, {"machine": identity, "kinds": kinds}]
    return sorted(rows, key=lambda row: [str(row["machine"][key]) for key in MACHINE])


def render(known: dict[str, Any]) -> str:
    """Write the page."""
    rows = known["machines"]
    return (
        "# Support\n\n"
        "Where Woodfrog was proven, by which tests, and when. This page is made from the reports of the tests\n"
        "(`make test`, `make vm`, `make vm-all`, then `python tests/vm/support.py`); nothing in it is written by hand. *12 of 40* tests: there\n"
        "are 40 of the kind, and 12 were run on that machine. A combination that is\n"
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
        + "\n".join(_section(row, known["tests"]) for row in rows)
    )


def existing() -> dict[str, int]:
    """Return how many tests there are of each kind, as pytest collects them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not gpu", *_FOLDERS]
    lines = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300
    ).stdout.splitlines()
    modules = (line.partition("::")[0].removesuffix(".py").replace("/", ".") for line in lines if "::" in line)
    return {"demo": 1, **Counter(kind for module in modules if (kind := kind_of(module)) is not None)}


def _title(machine: dict[str, Any]) -> str:
    kubernetes = machine.get("kubernetes")
    return f"Kubernetes {kubernetes} on {machine['system']}" if kubernetes else str(machine["system"])


def _engines(machine: dict[str, Any]) -> list[str]:
    return [f"{name} {machine[name]}" for name in ("containerd", "docker", "podman") if machine.get(name)]


def _driver(machine: dict[str, Any]) -> str:
    return str(machine["cgroup"]) + (", systemd" if machine["systemd"] else "")


def _summary(row: dict[str, Any]) -> str:
    machine, results = row["machine"], [result for tests in row["kinds"].values() for result in tests.values()]
    passed = sum(outcome in {"passed", "repeated"} for outcome, _ in results)
    date = max(date for _, date in results)
    cells = (
        _title(machine), machine["kernel"], _driver(machine), machine["runc"], machine["criu"],
        ", ".join(_engines(machine)), str(passed), date,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _section(row: dict[str, Any], whole: dict[str, int]) -> str:
    machine = row["machine"]
    title = f"{_title(machine)}, Linux {machine['kernel']}"
    tools = (
        ", ".join([f"cgroup {_driver(machine)}; runc {machine['runc']}", f"CRIU {machine['criu']}", *_engines(machine)])
        + "."
    )
    lines = [
        f"## {title}\n",
        f"{tools}\n",
        "| what | tests | passed | passed when repeated | failed | skipped | on |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, says in KINDS.items():
        tests = row["kinds"].get(kind)
        if tests:
            counts = Counter(outcome for outcome, _ in tests.values())
            numbers = [str(counts[outcome]) for outcome in _OUTCOMES]
            dates = sorted({date for _, date in tests.values()})
            when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
            lines.append(f"| {says} | {len(tests)} of {whole[kind]} | {' | '.join(numbers)} | {when} |")
    return "\n".join(lines) + "\n"


def known() -> dict[str, Any]:
    """Read what is known: how many ``tests`` there are of each kind, and what became of them on which ``machines``."""
    found: dict[str, Any] = json.loads(DATA.read_text())
    return found


def _written(known: dict[str, Any]) -> str:
    """Write what is known as JSON, a test a line."""
    machines = []
    for row in known["machines"]:
        kinds = []
        for kind, tests in sorted(row["kinds"].items()):
            lines = [f"  {json.dumps(test)}: {json.dumps(result)}" for test, result in sorted(tests.items())]
            kinds.append(f" {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n }")
        machines.append(f'{{"machine": {json.dumps(row["machine"])},\n"kinds": {{\n' + ",\n".join(kinds) + "\n}}")
    return f'{{"tests": {json.dumps(known["tests"])},\n"machines": [\n' + ",\n".join(machines) + "\n]}\n"


def main(folders: Iterable[str]) -> None:
    """Add the reports in these folders, and write the page."""
    rows = known()["machines"]
    for folder in map(Path, folders):
        rows = merged(rows, json.loads((folder / "machine.json").read_text()), reported(folder))
    found = {"tests": existing(), "machines": rows}
    DATA.write_text(_written(found))
    PAGE.write_text(render(found))


if __name__ == "__main__":
    main(sys.argv[1:])
