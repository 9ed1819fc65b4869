"""Which release of Woodfrog this is: its version where it was installed as a package, the bundle's digest in an image."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_OF_BUNDLE = Path(__file__).resolve().parents[3] / "release"
"""A bundle holds the code in ``app/`` and beside it the digest of all that is in it (:mod:`nodeworker.host.bundle`)."""


def release_name() -> str:
    """Name it."""
    try:
        return version("woodfrog")
    except PackageNotFoundError:
        return f"release {_OF_BUNDLE.read_text().strip()}" if _OF_BUNDLE.exists() else "unknown"
