"""The files of the page, which a browser gets as they are: no build, nothing from elsewhere (docs/decisions/0067)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from controlplane.http.api.server import Asset

_FOLDER: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files() -> dict[str, Asset]:
    """Read every file of the page, by its path; the first page is at ``/``."""
    found = {}
    for file in sorted(_FOLDER.rglob("*")):
        if file.suffix in _TYPES:
            name = file.relative_to(_FOLDER).as_posix()
            found["/" if name == "index.html" else f"/page/{name}"] = Asset(file.read_bytes(), _TYPES[file.suffix])
    return found
