"""Where things lie on a node, all in one place, so that installing and uninstalling cannot disagree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

WRAPPER: Final = "woodfrog-runtime"


@dataclass(frozen=True, slots=True)
class Places:
    """The paths under a root, which is ``/`` but in tests."""

    root: Path = Path("/")

    @property
    def home(self) -> Path:
        """The bundle's: releases, the link to the current one, and ``bin``."""
        return self.root / "opt/woodfrog"

    @property
    def releases(self) -> Path:
        """One directory for each release, named by its digest, never changed once it is there."""
        return self.home / "releases"

    @property
    def current(self) -> Path:
        """A link to the release in force."""
        return self.home / "current"

    @property
    def bin(self) -> Path:
        """Stable names, for containerd's configuration and for people."""
        return self.home / "bin"

    @property
    def runtime(self) -> Path:
        """The OCI runtime that containerd's configuration names, whatever the release."""
        return self.bin / WRAPPER

    @property
    def records(self) -> Path:
        """What the installation changed on the node, and the files as they were before."""
        return self.root / "etc/woodfrog"

    @property
    def run(self) -> Path:
        """The worker's socket and the markers of protected containers."""
        return self.root / "run/woodfrog"

    @property
    def state(self) -> Path:
        """Journal, spool, and a store in a directory."""
        return self.root / "var/lib/woodfrog"

    @property
    def crio(self) -> Path:
        """The configuration of CRI-O."""
        return self.root / "etc/crio"
