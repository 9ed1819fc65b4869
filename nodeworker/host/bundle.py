"""The tree that a node or an image is given: CRIU, a Python of its own, the packages, and Woodfrog itself.

A node has no Python that one could count on, and its libc may be older or another than ours, or none that we know. So
everything comes from one Debian suite, libc and loader included, and is started through that loader: the tree runs
wherever it is laid, on any x86-64 kernel from 5.11 on, and takes nothing of the host but the kernel and a shell. (How a
newer CRIU comes to an older machine is `criu_bundle`'s knowledge; this is the same with Python beside it.)

Three layers, from the slowest to change to the fastest: ``usr`` (Debian), ``packages`` (wheels, by hash), ``app`` (this
project), without what nothing needs at run time (`bundle_trim`). The first two are kept in a cache, so a bundle after a change of code is made in seconds. ``release`` names
the contents by their digest, ``sbom.cdx.json`` lists them.

Wheels are pinned by their hashes. Debian's packages are pinned by ``images/debian.lock``, which is kept to with ``--locked``: a mirror
has a suite's packages of the day only, so what is not for release takes those.

``python -m nodeworker.host.bundle DEST [--kind node|controlplane] [--locked | --relock]``
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nodeworker.errors import refusal
from nodeworker.host import bundle_trim, criu_bundle, sbom
from woodfrog.protocol.failures import FailureError

PROJECT: Final = Path(__file__).parents[2]
CACHE: Final = PROJECT / "build/bundle"
REQUIREMENTS: Final = PROJECT / "requirements/runtime.txt"
LOCK: Final = PROJECT / "images/debian.lock"
RELEASE: Final = "release"

KINDS: Final = {
    "node": ("woodfrog/protocol", "woodfrog/service", "nodeworker"),
    "controlplane": ("woodfrog", "nodeworker", "controlplane", "migrations"),
}
"""Which of the project's packages each kind carries."""

_DEBIAN: Final = ("criu", "python3-minimal", "libpython3-stdlib", "libstdc++6")
_SECONDS: Final = 600
_LOCK_HEAD: Final = """\
# Debian's packages in the images: name, version, architecture, suite, SHA-256 of the file. `LOCKED=1 images/build.sh` takes these
# and no others; where the mirror has gone on, name one of that day (such as a snapshot) in the machine's package sources, or
# rewrite the file: python -m nodeworker.host.bundle build/images/node/bundle --relock
"""

_LAUNCHER: Final = """#!/bin/sh
# Starts {program} with this tree's own loader and libraries, from wherever the tree lies; LD_LIBRARY_PATH would leak
# into its children. Installed on a node, bin/ beside `current` leads here, too.
tree=${{0%/*}}/..
[ -e "$tree/{loader}" ] || tree=$tree/current
exec "$tree/{loader}" {argv0}--library-path "$tree/{libraries}" "$tree/{program}" "$@"
"""
_MODULE: Final = """#!/bin/sh
exec "${{0%/*}}/python3" -I {module} "$@"
"""
_COMMANDS: Final = {
    "node": {"woodfrog-node": "-m nodeworker.host"},
    "controlplane": {
        "woodfrog": "-m woodfrog.cli.main",
        "woodfrog-controlplane": "-m controlplane",
    },
}


def build(destination: Path, kind: str = "node", *, cache: Path = CACHE, locked: bool = False) -> str:
    """Lay the bundle at ``destination``, which must not exist or be a bundle; return its release.

    ``locked``: take the packages of Debian that the lock names, and no others.

    Raises:
        FailureError: ``not-root``, ``mirror-unknown``, ``mirror-unreachable``, ``criu-unusable``, ``bundle-failed`` or
            ``bundle-foreign``.
    """
    if destination.exists() and not (destination / RELEASE).exists() and any(destination.iterdir()):
        raise refusal("bundle-foreign", f"{destination} is there and is not a bundle", "Name a directory that is not.")
    cache.mkdir(parents=True, exist_ok=True)
    debian = _debian(cache, locked=locked)
    packages = _packages(cache, debian, kind)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=destination.parent) as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(debian, tree, symlinks=True)
        shutil.copytree(packages, tree / "packages", symlinks=True)
        _app(tree, kind)
        if kind != "node":
            (tree / "bin/criu").unlink()
            (tree / "usr/sbin/criu").unlink()
            (tree / "bin/nats-server").symlink_to("../packages/bin/nats-server")
        bundle_trim.drop_libraries(tree)
        release = digest(tree)
        sbom.write(tree, kind=kind, release=release, version=_version())
        (tree / RELEASE).write_text(f"{release}\n")
        if destination.exists():
            destination.rename(Path(scratch) / "old")
        tree.chmod(0o755)
        tree.rename(destination)
    return release


def digest(tree: Path) -> str:
    """Name a tree by what is in it.

    Bytecode is not reproducible, so it is left out: ours follows from its source, that of others from the digests of their packages, which
    are in the tree.
    """
    seen = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree)
        if name.suffix == ".pyc" or str(name) in {RELEASE, sbom.SBOM}:
            continue
        if path.is_symlink():
            seen.update(f"l {name} {path.readlink()}\n".encode())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            seen.update(f"f {name} {path.stat().st_mode & 0o777:o} {content}\n".encode())
    return seen.hexdigest()[:32]


def wanted(requirements: str, kind: str) -> str:
    """Those of the pinned requirements that a kind of bundle needs, hashes and all."""
    entries = re.split(r"^(?=\S)", requirements, flags=re.MULTILINE)
    kept = [entry for entry in entries if entry.strip() and not entry.startswith("#")]
    return "".join(entry for entry in kept if entry.partition("==")[0].strip() not in bundle_trim.LEFT_OUT[kind])


def _version() -> str:
    said = re.search(r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert said is not None
    return said[1]


def _debian(cache: Path, *, locked: bool) -> Path:
    """CRIU and Python of one suite of Debian, unpacked, with launchers; from the cache when they are there."""
    made = cache / "debian"
    lock = sbom.read_packages(LOCK.read_text()) if locked else []
    inputs = _recipe(repr(lock))
    if (made / "inputs").exists() and (made / "inputs").read_text() == inputs:
        return made / "tree"
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=cache) as scratch:
        fresh = Path(scratch) / "made"
        fresh.mkdir()
        criu_bundle.build(fresh / "tree", _DEBIAN, lock=lock)
        tree = fresh / "tree"
        bundle_trim.trim_debian(tree)
        _lay_launchers(tree)
        _compile(tree, tree / "usr/lib", "-b")
        bundle_trim.drop_sources(tree / "usr/lib")
        (fresh / "inputs").write_text(inputs)
        shutil.rmtree(made, ignore_errors=True)
        fresh.rename(made)
    return made / "tree"


def _recipe(inputs: str) -> str:
    code = b"".join(Path(module).read_bytes() for module in (__file__, bundle_trim.__file__))
    return hashlib.sha256(code + inputs.encode()).hexdigest()


def _lay_launchers(tree: Path) -> None:
    loader = next(tree.glob("usr/lib/*/ld-linux-*.so.*")).relative_to(tree)
    python = next(path for path in sorted(tree.glob("usr/bin/python3.*"))).relative_to(tree)
    (tree / "lib").symlink_to("usr/lib")
    for name, program, argv0 in (("criu", Path("usr/sbin/criu"), ""), ("python3", python, '--argv0 "$0" ')):
        text = _LAUNCHER.format(loader=loader, libraries=loader.parent, program=program, argv0=argv0)
        _write_program(tree / "bin" / name, text)
    # Where Debian's Python looks for packages of every version; it knows the folder by way of `lib`.
    site = tree / "usr/lib/python3/dist-packages"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    (site / "woodfrog.pth").write_text("../../../packages\n../../../app\n")


def _packages(cache: Path, debian: Path, kind: str) -> Path:
    """The wheels that a kind needs, installed; from the cache when the same were wanted before."""
    requirements = wanted(REQUIREMENTS.read_text(), kind)
    inputs = _recipe(requirements + next(debian.glob("usr/bin/python3.*")).name)
    made = cache / f"packages-{kind}"
    if (made / "inputs").exists() and (made / "inputs").read_text() == inputs:
        return made / "packages"
    _say(f"installing the packages of a {kind}")
    with tempfile.TemporaryDirectory(prefix=".packages-", dir=cache) as scratch:
        fresh = Path(scratch) / "made"
        fresh.mkdir()
        listed = Path(scratch) / "requirements.txt"
        listed.write_text(requirements)
        python = debian / "bin/python3"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
        ]
        command += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
        _run([*command, "--target", fresh / "packages", "-r", listed])
        bundle_trim.trim_packages(fresh / "packages")
        # Commands of packages name the Python that they were installed with; a server is a program of its own.
        for path in fresh.glob("packages/bin/*"):
            if path.name != "nats-server":
                path.unlink()
        _compile(debian, fresh / "packages", "-b")
        bundle_trim.drop_sources(fresh / "packages")
        (fresh / "inputs").write_text(inputs)
        shutil.rmtree(made, ignore_errors=True)
        fresh.rename(made)
    return made / "packages"


def _app(tree: Path, kind: str) -> None:
    for name in KINDS[kind]:
        shutil.copytree(PROJECT / name, tree / "app" / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for package in Path(name).parents[:-1]:
            shutil.copy2(PROJECT / package / "__init__.py", tree / "app" / package)
    _compile(tree, tree / "app")
    for name, module in _COMMANDS[kind].items():
        _write_program(tree / "bin" / name, _MODULE.format(module=module))


def _compile(tree: Path, folder: Path, *options: str) -> None:
    """Compile once, here: a node never writes into the tree. Unchecked, since times do not survive every copy."""
    command: list[str | Path] = [
        tree / "bin/python3",
        "-I",
        "-B",
        "-m",
        "compileall",
        "-q",
        "-j2",
        "--invalidation-mode",
        "unchecked-hash",
        *options,
    ]
    _run([*command, "-s", tree, folder])


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _run(command: Sequence[str | Path]) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_SECONDS, env={**os.environ, "LC_ALL": "C"}
        )
    except subprocess.SubprocessError as problem:
        words = (getattr(problem, "stderr", "") or getattr(problem, "stdout", "") or str(problem)).strip()[-2000:]
        raise refusal(
            "bundle-failed", f"{command[0]} failed while the bundle was made", "Is there a network?", words
        ) from problem


def _say(text: str) -> None:
    sys.stderr.write(f"bundle: {text}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m nodeworker.host.bundle", description="Build a relocatable bundle.")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--kind", choices=sorted(KINDS), default="node")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where layers are kept (default: %(default)s)")
    pinned = parser.add_mutually_exclusive_group()
    pinned.add_argument(
        "--locked", action="store_true", help=f"take the packages that {LOCK.name} names, and no others"
    )
    pinned.add_argument("--relock", action="store_true", help=f"write down in {LOCK.name} which packages were taken")
    given = parser.parse_args(arguments)
    try:
        release = build(given.destination.absolute(), given.kind, cache=given.cache.absolute(), locked=given.locked)
    except FailureError as problem:
        _say(str(problem))
        if problem.failure.detail:
            _say(problem.failure.detail)
        return 1
    taken = (given.destination / sbom.DEBIAN_PACKAGES).read_text()
    if given.relock:
        LOCK.write_text(f"{_LOCK_HEAD}{taken}")
    elif sbom.read_packages(taken) != sbom.read_packages(LOCK.read_text()):
        _say(f"the packages of Debian are those of the day and not those of {LOCK.name}; for a release, use --locked")
    sys.stdout.write(f"{release}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
