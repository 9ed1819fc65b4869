"""What is in a bundle, package by package, in CycloneDX's JSON: for whoever has to know whether a vulnerable one is among them.

Made when the bundle is made, out of what was laid down and not out of what was asked for: Debian's packages with the digests
of the files that were unpacked, and the wheels that are there with the versions that they say of themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

import msgspec

DEBIAN_PACKAGES: Final = "debian-packages"
"""In a bundle's root: one package a line, with its version, its architecture, the suite it came from and the SHA-256 of its file."""
SBOM: Final = "sbom.cdx.json"


class DebianPackage(msgspec.Struct, frozen=True, order=True):
    """One package of Debian that was unpacked."""

    name: str
    version: str
    architecture: str
    suite: str
    sha256: str

    @classmethod
    def of_file(cls, path: Path, suite: str) -> DebianPackage:
        """Read the name of a file as apt writes it: ``criu_4.2.1-1_amd64.deb``, with what a URL would escape escaped."""
        name, version, architecture = path.name.removesuffix(".deb").split("_")
        return cls(
            name, version.replace("%3a", ":"), architecture, suite, hashlib.sha256(path.read_bytes()).hexdigest()
        )

    @property
    def line(self) -> str:
        """As it stands in a list."""
        return f"{self.name} {self.version} {self.architecture} {self.suite} {self.sha256}"


def read_packages(text: str) -> list[DebianPackage]:
    """Read a list of packages; lines that begin with ``#`` are comments."""
    lines = (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [DebianPackage(*words) for words in lines]


def write(tree: Path, *, kind: str, release: str, version: str) -> None:
    """Write the bill of materials of a bundle into it."""
    debian = tree / DEBIAN_PACKAGES
    found = read_packages(debian.read_text()) if debian.exists() else []
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "woodfrog", "name": f"woodfrog-{kind}", "version": version},
            "properties": [{"name": "woodfrog:release", "value": release}],
        },
        "components": [*map(_of_debian, sorted(found)), *_of_wheels(tree / "packages")],
    }
    (tree / SBOM).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def _of_debian(package: DebianPackage) -> dict[str, Any]:
    url = f"pkg:deb/debian/{package.name}@{package.version}?arch={package.architecture}&distro={package.suite}"
    return {
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
    }


def _of_wheels(packages: Path) -> Iterator[dict[str, Any]]:
    for metadata in sorted(packages.glob("*.dist-info/METADATA")):
        said = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
        url = f"pkg:pypi/{said['Name'].lower().replace('_', '-')}@{said['Version']}"
        component = {"type": "library", "bom-ref": url, "name": said["Name"], "version": said["Version"], "purl": url}
        if said["License-Expression"]:
            component["licenses"] = [{"expression": said["License-Expression"]}]
        yield component
