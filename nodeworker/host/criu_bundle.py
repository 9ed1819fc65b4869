"""A CRIU that works on the running kernel, laid down without touching the system's packages.

A kernel newer than the distribution's CRIU breaks it, and newer CRIUs need a newer glibc. Which one works is decided by
the self-test and by nothing else: the bundle that is there, the system's CRIU, and those of Debian's suites, the newest
first, are tried in turn. Of a suite the packages are unpacked, libraries and loader included, into a prefix of their own, and
started by a script through that loader. apt works on a state directory of its own and asks the mirror that the machine uses
anyway. The prefix appears whole, by a rename, or not at all; it may be moved or copied to another host.

``python -m nodeworker.host.criu_bundle [--prefix DIR]`` prints the path of the CRIU that works.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeworker.errors import refusal
from nodeworker.host import self_test
from nodeworker.host.sbom import DEBIAN_PACKAGES, DebianPackage
from woodfrog.protocol.failures import FailureError

PREFIX: Final = Path("/opt/woodfrog/criu")
SETTING: Final = "WOODFROG_CRIU"
SUITES: Final = ("sid", "trixie")
"""Tried in turn: sid carries the newest CRIU there is, which knows the newest kernels; Debian 13's 4.1 is what stays."""

_LIBRARIES: Final = ("lib", "zlib1g", "python3.")
"""How the names of packages begin that are unpacked because another needs them."""

_APT_SECONDS: Final = 300

_LAUNCHER: Final = """#!/bin/sh
# Starts the CRIU of this bundle with the bundle's own loader and libraries; LD_LIBRARY_PATH would leak into its children.
bundle=${0%/*}/..
loader=$(echo "$bundle"/usr/lib/*/ld-linux-*.so.*)
exec "$loader" --library-path "${loader%/*}" "$bundle/usr/sbin/criu" "$@"
"""


class _OtherPackageError(Exception):
    """The mirror gave packages that are not those of the lock; the message names them."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the machine gets its Debian packages from."""

    uri: str
    signed_by: str | None


def find_criu(prefix: Path = PREFIX) -> Path:
    """Find the CRIU to use: what ``WOODFROG_CRIU`` names, else the bundle, else the PATH's if it passes the self-test.

    Raises:
        FailureError: ``criu-missing``, saying how to get one.
    """
    named = os.environ.get(SETTING)
    if named:
        found = shutil.which(named)
        if found is None:
            raise refusal(
                "criu-missing", f"{SETTING} names {named}, which is not an executable", "Correct or unset it."
            )
        return Path(found)
    if launcher(prefix).exists():
        return launcher(prefix)
    system = shutil.which("criu")
    if system is not None and complaint(Path(system)) is None:
        return Path(system)
    raise refusal(
        "criu-missing",
        "there is no CRIU that works on the running kernel",
        f"Run `python -m nodeworker.host.criu_bundle`, or name one in {SETTING}.",
    )


def ensure(prefix: Path = PREFIX) -> Path:
    """Return a CRIU that works, building the bundle under ``prefix`` only if there is none yet.

    Raises:
        FailureError: ``not-root``, ``mirror-unknown``, ``mirror-unreachable`` or ``criu-unusable``; nothing is left behind.
    """
    _refuse_others_than_root()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with _alone(prefix.parent):
        if launcher(prefix).exists() and complaint(launcher(prefix)) is None:
            return launcher(prefix)
        system = shutil.which("criu")
        if system is not None and complaint(Path(system)) is None:
            return Path(system)
        build(prefix)
    return launcher(prefix)


def _refuse_others_than_root() -> None:
    if os.geteuid() != 0:
        raise refusal("not-root", "CRIU can be checked and laid down by root only", "Run this as root.")


def sources(root: Path = Path("/")) -> list[Source]:
    """Read the machine's package sources that carry its own Debian release, in both of apt's formats (sources.list(5)).

    Raises:
        FailureError: ``mirror-unknown`` when there are none, as on another distribution.
    """
    release = _release_codename(root)
    folder = root / "etc/apt/sources.list.d"
    found = []
    for path in sorted(folder.glob("*.sources")):
        for stanza in path.read_text().replace("\r", "").split("\n\n"):
            found += _deb822_sources(stanza, release)
    for path in [root / "etc/apt/sources.list", *sorted(folder.glob("*.list"))]:
        if path.exists():
            found += [source for line in path.read_text().splitlines() for source in _line_sources(line, release)]
    if not found:
        raise refusal(
            "mirror-unknown",
            "this machine's apt has no source of Debian packages to take a CRIU from",
            f"Install a CRIU that works on this kernel and name it in {SETTING}.",
        )
    return list(dict.fromkeys(found))


def _deb822_sources(stanza: str, release: str) -> list[Source]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in {" ", "\t"} and name:
            fields[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    if fields.get("enabled", "yes").lower() == "no" or "deb" not in fields.get("types", "").split():
        return []
    if release not in fields.get("suites", "").split() or "main" not in fields.get("components", "").split():
        return []
    signed_by = fields.get("signed-by", "")
    return [Source(uri, signed_by if signed_by.startswith("/") else None) for uri in fields.get("uris", "").split()]


def _line_sources(line: str, release: str) -> list[Source]:
    words = line.split("#", 1)[0].split()
    if not words or words[0] != "deb":
        return []
    signed_by = None
    if len(words) > 1 and words[1].startswith("["):
        closing = next((index for index, word in enumerate(words) if word.endswith("]")), len(words))
        for option in " ".join(words[1 : closing + 1]).strip("[] ").split():
            if option.startswith("signed-by="):
                signed_by = option.partition("=")[2]
        del words[1 : closing + 1]
    if len(words) < 4 or words[2] != release or "main" not in words[3:]:
        return []
    return [Source(words[1], signed_by)]


def _release_codename(root: Path) -> str:
    path = root / "etc/os-release"
    lines = path.read_text().splitlines() if path.exists() else []
    values = dict(line.partition("=")[::2] for line in lines)
    return values.get("VERSION_CODENAME", "").strip('"')


def build(prefix: Path, packages: Sequence[str] = ("criu",), *, lock: Sequence[DebianPackage] = ()) -> None:
    """Lay a CRIU that works on this kernel, and any further packages, under ``prefix``, whatever this machine has.

    Built aside, checked, and renamed; the next suite is tried when one does not work. With a ``lock`` only its packages will do, in
    the versions and with the digests that it names, of the suite that it names.

    Raises:
        FailureError: as :func:`ensure` does.
    """
    _refuse_others_than_root()
    problems: list[str] = []
    reached = False
    for source in sources():
        for suite in SUITES if not lock else sorted({package.suite for package in lock}):
            with tempfile.TemporaryDirectory(prefix=f".{prefix.name}-", dir=prefix.parent) as scratch:
                try:
                    bundle = unpack(source, suite, Path(scratch), packages, lock)
                except (subprocess.SubprocessError, _OtherPackageError) as failed:
                    problems.append(f"{suite} from {source.uri}: {_words(failed)}")
                    continue
                reached = True
                problem = complaint(launcher(bundle))
                if problem is not None:
                    problems.append(f"{suite} from {source.uri}: {problem}")
                    continue
                _put_in_place(bundle, prefix, Path(scratch))
                return
    detail = "\n".join(problems)
    if not reached:
        raise refusal(
            "mirror-unreachable",
            "no newer CRIU could be fetched from this machine's Debian mirror",
            f"Check the network, or name a CRIU in {SETTING}.",
            detail,
        )
    raise refusal(
        "criu-unusable",
        "none of the CRIUs that Debian offers works on the running kernel",
        "The kernel needs CONFIG_CHECKPOINT_RESTORE; run `criu check` by hand to see what else it lacks.",
        detail,
    )


def unpack(
    source: Source,
    suite: str,
    scratch: Path,
    packages: Sequence[str] = ("criu",),
    lock: Sequence[DebianPackage] = (),
) -> Path:
    """Fetch CRIU, with any further packages, and the libraries that they need, and unpack them all into one tree.

    Raises:
        subprocess.SubprocessError: when they cannot be fetched or unpacked.
        _OtherPackageError: the mirror has others than the lock names.
    """
    for name in ("sources", "lists/partial", "cache/archives/partial", "debs", "bundle/bin"):
        (scratch / name).mkdir(parents=True)
    signed = f" [signed-by={source.signed_by}]" if source.signed_by else ""
    (scratch / "sources/one.list").write_text(f"deb{signed} {source.uri} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(scratch / "sources"),
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": str(scratch / "lists"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(scratch / "cache"),
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "APT::Update::Error-Mode": "any",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _say(f"fetching CRIU of Debian {suite} from {source.uri}")
    _apt(["apt-get", *flags, "update"], scratch)
    named = [f"{package.name}={package.version}" for package in lock] or _needed(flags, scratch, packages)
    _apt(["apt-get", *flags, "download", *named], scratch / "debs")
    bundle = scratch / "bundle"
    found = sorted(DebianPackage.of_file(path, suite) for path in (scratch / "debs").glob("*.deb"))
    if lock and found != sorted(lock):
        raise _OtherPackageError(", ".join(package.line for package in found if package not in lock))
    (bundle / DEBIAN_PACKAGES).write_text("".join(f"{package.line}\n" for package in found))
    for package in sorted((scratch / "debs").glob("*.deb")):
        _apt(["dpkg-deb", "-x", str(package), str(bundle)], scratch)
    for unwanted in ("usr/share", "etc"):
        shutil.rmtree(bundle / unwanted, ignore_errors=True)
    _merge_usr(bundle)
    launcher(bundle).write_text(_LAUNCHER)
    launcher(bundle).chmod(0o755)
    bundle.chmod(0o755)
    return bundle


def _needed(flags: list[str], scratch: Path, packages: Sequence[str]) -> list[str]:
    """The packages and every library that one of them depends on; programs that their scripts use are the host's."""
    needed: list[str] = []
    wanted = sorted(packages)
    while wanted:
        needed += wanted
        said = _apt(["apt-cache", *flags, "depends", "--important", *wanted], scratch)
        names = [line.split(":", 1)[1].strip() for line in said.splitlines() if "Depends:" in line]
        wanted = sorted({name for name in names if name.startswith(_LIBRARIES) and name not in needed})
    return needed


def _merge_usr(bundle: Path) -> None:
    """Packages from before the /usr merge ship /lib: move it where the launcher looks."""
    for name in ("lib", "sbin"):
        old = bundle / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, bundle / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)


def _put_in_place(bundle: Path, prefix: Path, scratch: Path) -> None:
    if prefix.exists():
        prefix.rename(scratch / "old")
    bundle.rename(prefix)


def launcher(prefix: Path) -> Path:
    """Where the CRIU of a bundle is started from."""
    return prefix / "bin" / "criu"


def complaint(criu: Path) -> str | None:
    """Return what speaks against this CRIU on this node, by the self-test, or ``None``. Needs root and runc."""
    try:
        self_test.ensure(_runc(), criu)
    except FailureError as problem:
        failure = problem.failure
        return f"{failure.cause}{f' ({failure.detail})' if failure.detail else ''}".replace("\n", " | ")
    return None


def _runc() -> Path:
    found = shutil.which(os.environ.get("WOODFROG_RUNC") or "runc")
    if found is None:
        raise refusal("runc-missing", "there is no runc to test a CRIU with", "Install runc, or set WOODFROG_RUNC.")
    return Path(found)


def _words(problem: BaseException) -> str:
    said = getattr(problem, "stderr", None) or ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return (text.strip() or str(problem)).replace("\n", " | ")[-600:]


def _apt(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_APT_SECONDS, check=True
    ).stdout


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time build here; the folder itself is the lock, and goes again if nothing came into it."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
        with suppress(OSError):
            folder.rmdir()


def _say(text: str) -> None:
    sys.stderr.write(f"criu: {text}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m nodeworker.host.criu_bundle", description="Get a CRIU that works.")
    parser.add_argument("--prefix", type=Path, default=PREFIX, help="where the bundle goes (default: %(default)s)")
    prefix: Path = parser.parse_args(arguments).prefix.absolute()
    try:
        criu = ensure(prefix)
    except FailureError as problem:
        _say(str(problem))
        if problem.failure.detail:
            _say(problem.failure.detail)
        return 1
    sys.stdout.write(f"{criu}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
