"""Write docs/reference/chart.md out of the chart: ``python tests/chart/reference.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/woodfrog"
PAGE = ROOT / "docs/reference/chart.md"
HEAD = """\
# The Helm chart

Every value of `helm/woodfrog`, with its default. Unknown names and values that cannot be meant are refused. This page is written by
`python tests/chart/reference.py` from `values.schema.json` and `values.yaml`; a test fails when it is out of date. How to install:
[Install on Kubernetes](../how-to/install-on-kubernetes.md).

What is made, with `<name>` for the release's full name: the Deployment `<name>-controlplane`, the DaemonSet `<name>-node`, the StatefulSet `<name>-nats`, the RuntimeClass `cedana`, and what
they need: Services, ServiceAccounts, Roles, Secrets, claims. Only the DaemonSet's pods are privileged. Everything else runs as a user that is not root, on a
read-only root file system, without capabilities.
"""


def rows(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[str]:
    """One line of the table for each value that can be set."""
    for key, known in schema["properties"].items():
        if key not in values:
            continue
        name, value = f"{path}{key}", values[key]
        if "properties" in known and isinstance(value, dict) and key not in {"resources", "rollingUpdate"}:
            yield from rows(known, value, f"{name}.")
        else:
            yield f"| `{name}` | `{json.dumps(value)}` | {known['description']}{choices(known)} |"


def choices(known: dict[str, Any]) -> str:
    """What may be said, where that is a short list."""
    return f" One of: {', '.join(f'`{each}`' for each in known['enum'])}." if "enum" in known else ""


def page() -> str:
    """The whole page."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    parts = [HEAD, "## Everything\n"]
    own = {key: value for key, value in values.items() if not (isinstance(value, dict) and value)}
    table = "| value | default | meaning |\n|---|---|---|"
    parts.append("\n".join([table, *rows(schema, own)]) + "\n")
    for key in schema["properties"]:
        if key in values and key not in own:
            known = schema["properties"][key]
            parts += [f"## `{key}`\n", f"{known['description']}\n"]
            parts.append("\n".join([table, *rows(known, values[key], f"{key}.")]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
