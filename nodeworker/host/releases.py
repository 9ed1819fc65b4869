"""Laying a bundle on a node so that whatever runs from the one before keeps its files.

Each release has a directory of its own, named by its digest, which appears whole by a rename and never changes. One that is
there already is compared with the bundle, byte by byte, before it is used: its name was only promised. Links are
switched over to it. The one before always stays, for a call that has just read the old link; older ones go when no process
runs from them.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.host.bundle import RELEASE
from nodeworker.host.paths import Places
from woodfrog.protocol.failures import Failure, FailureError

_LINKS: Final = ("python3", "criu", "woodfrog-node")
_FRESH: Final = ".fresh-"
_LONGEST_COPY_SECONDS: Final = 3600.0
"""A copy that was begun so long ago was left by somebody who was killed; a bundle has 100 MB."""


def bundle_here() -> Path:
    """The bundle that this process runs from.

    Raises:
        FailureError: ``bundle-missing`` when it runs from a clone or an installed package.
    """
    tree = Path(__file__).parents[3]
    if not (tree / RELEASE).is_file():
        raise FailureError(
            Failure(
                "bundle-missing",
                f"{tree} is not a bundle that could be laid on a node",
                "Build one with `python -m nodeworker.host.bundle DEST`, and run DEST/bin/woodfrog-node.",
            )
        )
    return tree


def lay(bundle: Path, places: Places) -> Path:
    """Copy a bundle to its place among the releases, unless it lies there as it is; return the place.

    What lies there and is not the bundle goes aside. Who runs from it keeps its open files.
    """
    release = places.releases / (bundle / RELEASE).read_text().strip()
    if release.is_dir():
        if difference(bundle, release) is None:
            return release
        release.rename(Path(tempfile.mkdtemp(prefix=_FRESH, dir=places.releases)) / "other")
    places.releases.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=_FRESH, dir=places.releases))
    try:
        tree = scratch / "tree"
        shutil.copytree(bundle, tree, symlinks=True)
        tree.chmod(0o755)
        os.sync()
        with suppress(FileExistsError, OSError):
            tree.rename(release)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return release


def difference(bundle: Path, release: Path) -> str | None:
    """Return where two trees first differ, in content, mode or target of a link; ``None`` if they are the same."""
    names = {path.relative_to(tree) for tree in (bundle, release) for path in tree.rglob("*")}
    for name in sorted(names):
        here, there = bundle / name, release / name
        try:
            modes = here.lstat().st_mode, there.lstat().st_mode
        except OSError:
            return str(name)
        if modes[0] != modes[1] or not _same(here, there, modes[0]):
            return str(name)
    return None


def _same(here: Path, there: Path, mode: int) -> bool:
    if stat.S_ISLNK(mode):
        return here.readlink() == there.readlink()
    return stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and filecmp.cmp(here, there, shallow=False))


def switch(release: Path, places: Places) -> None:
    """Make a release the current one, and give its programs names that stay."""
    places.bin.mkdir(parents=True, exist_ok=True)
    for name in _LINKS:
        _link(places.bin / name, Path("../current/bin") / name)
    _link(places.current, release.relative_to(places.home))


def clear(places: Places, before: Path | None) -> list[Path]:
    """Remove releases that nothing uses, but for the current one and the one ``before`` it; return what was removed.

    Copies that were never finished go as well.
    """
    kept = {places.current.resolve(), before}
    used = in_use(places)
    gone = []
    for release in sorted(places.releases.iterdir()):
        if release.name.startswith(_FRESH) and time.time() - release.lstat().st_mtime > _LONGEST_COPY_SECONDS:
            shutil.rmtree(release, ignore_errors=True)
        elif release not in kept and release.name not in used and not release.name.startswith("."):
            shutil.rmtree(release)
            gone.append(release)
    return gone


def in_use(places: Places) -> set[str]:
    """Names of the releases that some process runs from: every program of a bundle runs through the bundle's loader."""
    found = set()
    start = f"{places.releases}/"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            words = [str((process / "exe").readlink())]
            words += (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            found |= {word.removeprefix(start).partition("/")[0] for word in words if word.startswith(start)}
    return found


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(path)
