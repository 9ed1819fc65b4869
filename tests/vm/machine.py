"""What a machine is on which tests ran, as JSON on standard output: the rows of docs/reference/support.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from nodeworker.host import facts
from nodeworker.host.criu_bundle import find_criu


def first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def version(*command: str) -> str | None:
    """Return the first word of a version line that begins with a digit, or with ``v`` and one."""
    words = (first_line(*command) or "").replace(",", " ").split()
    number = next((word.removeprefix("v") for word in words if word.removeprefix("v")[:1].isdigit()), None)
    return None if number is None else re.split("[~+]", number)[0]  # without what a distribution adds


def system() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    values = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    return f"{values.get('NAME', 'Linux').split()[0]} {values.get('VERSION_ID') or values.get('VERSION_CODENAME', '')}".strip()


def describe() -> dict[str, object]:
    runc = Path(shutil.which("runc") or "runc")
    node = facts.probe(runc, find_criu())
    return {
        "system": system(),
        "kernel": node.kernel_release,
        "cgroup": f"v{node.cgroup_version}",
        "systemd": Path("/run/systemd/system").is_dir(),
        "runc": (node.runc_version or "").split("+")[0],
        "criu": node.criu_version,
        "containerd": version("containerd", "--version"),
        "docker": version("dockerd", "--version"),
        "podman": version("podman", "--version"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(), indent=2) + "\n")
