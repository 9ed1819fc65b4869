"""The root filesystems that the programs run in: one for each suite of Debian, with every package that a program names.

Made by debootstrap, apt, pip and npm, and kept under build/matrix: what is there already is not installed again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from matrix.program import Npm, Pip, Program

BUILD: Final = Path(__file__).parents[2] / "build" / "matrix"
_BASE: Final = ("python3", "perl", "curl", "procps")
_PYTHON: Final = "3.11"
_MIRROR: Final = "http://deb.debian.org/debian"
_NO_SERVICES: Final = "#!/bin/sh\nexit 101\n"


def prepared(programs: Iterable[Program]) -> dict[str, Path]:
    """Make what these programs need; return the root of each suite."""
    chosen = list(programs)
    roots = {}
    for suite in sorted({program.suite for program in chosen}):
        here = [program for program in chosen if program.suite == suite]
        root = BUILD / suite
        _debootstrap(suite, root)
        _apt(root, sorted({*_BASE, *(package for program in here for package in program.apt)}))
        for packages in {program.packages for program in here if program.packages is not None}:
            _packages(root, packages)
        roots[suite] = root
    return roots


def _debootstrap(suite: str, root: Path) -> None:
    if (root / "etc/debian_version").exists():
        return
    if shutil.which("debootstrap") is None:
        sys.exit("make matrix needs Debian's package debootstrap")
    fresh = root.with_name(f"{suite}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _quietly(["debootstrap", "--variant=minbase", suite, str(fresh), _MIRROR])
    fresh.rename(root)


def _apt(root: Path, packages: list[str]) -> None:
    installed = subprocess.run(
        ["chroot", str(root), "dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    missing = [package for package in packages if f"{package} installed" not in installed.splitlines()]
    if not missing:
        return
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_NO_SERVICES)
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copytree("/etc/apt/apt.conf.d", root / "etc/apt/apt.conf.d", dirs_exist_ok=True)  # a proxy, say
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True, timeout=30)
    try:
        _quietly(["chroot", str(root), "apt-get", "update", "-q"])
        _quietly(["chroot", str(root), "apt-get", "install", "-y", "-q", "--no-install-recommends", *missing])
    finally:
        subprocess.run(["umount", str(root / "proc")], check=True, timeout=30)


def _packages(root: Path, packages: Pip | Npm) -> None:
    target = root / "opt" / packages.name
    if target.exists():
        return
    fresh = target.with_name(f"{packages.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    if isinstance(packages, Pip):
        kind = "--no-deps" if packages.from_source else "--only-binary=:all:"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--python-version", _PYTHON, kind, "--target"]
    elif shutil.which("npm") is None:
        sys.exit("make matrix needs npm for some of its programs")
    else:
        command = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]
    _quietly([*command, str(fresh), *packages.requirements])
    fresh.rename(target)


def _quietly(command: list[str]) -> None:
    """Run it; what it says is shown if it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=3600, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
