"""Writing the runtime out: the script that containerd's ``BinaryName`` or ``woodfrog run`` names.

Everything that the script needs is written into it, because it starts with the environment of whoever calls it, which is
containerd's, a shim's or nobody's.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Final

DEFAULT_VARIABLE: Final = "CEDANA_CHECKPOINT"
_TEMPLATE: Final = Path(__file__).with_name("wrapper.sh.in")
_PACKAGES: Final = Path(__file__).parents[2]


def write_runtime(
    path: Path,
    *,
    run_dir: Path,
    runc: Path,
    criu: Path,
    python: Path,
    packages: Path = _PACKAGES,
    variable: str = DEFAULT_VARIABLE,
    worker_wait_seconds: float = 30.0,
    answer_seconds: float = 1800.0,
) -> Path:
    """Write the runtime to ``path``, executable, replacing an older one at once and as a whole; return the path.

    ``run_dir`` is the worker's: its socket and the markers of protected containers lie there. ``criu`` must be called
    ``criu``, for runc finds it by that name. ``packages`` is where this code lies. ``worker_wait_seconds`` bounds how long
    ``create`` waits for a worker that is not there, ``answer_seconds`` how long any verb waits for the answer of one that
    is.

    Raises:
        ValueError: for a relative path, a ``criu`` of another name, or a variable that no environment can hold.
        OSError: when ``path`` cannot be written.
    """
    for name, given in (("run_dir", run_dir), ("runc", runc), ("criu", criu), ("python", python)):
        if not given.is_absolute():
            raise ValueError(f"{name} must be an absolute path, not {given}")
    if criu.name != "criu":
        raise ValueError(f"{criu}: runc finds CRIU by the name 'criu', so the file must be called that")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable, re.ASCII):
        raise ValueError(f"{variable!r} cannot be the name of an environment variable")
    program = f"import sys; sys.path.append({str(packages)!r}); from nodeworker.runtime.slowpath import run; run()"
    settings = (str(run_dir), str(runc), str(criu), variable, str(worker_wait_seconds), str(answer_seconds))
    values = {
        "@VARIABLE_NAME@": variable,
        "@VARIABLE_WORD@": shlex.quote(variable),
        "@VARIABLE_IN_JSON@": shlex.quote(f'"{variable}='),
        "@RUNC@": shlex.quote(str(runc)),
        "@PYTHON@": shlex.quote(str(python)),
        "@CONTAINERS@": shlex.quote(str(run_dir / "containers")),
        "@TELLS@": shlex.quote(str(run_dir / "tells")),
        "@PROGRAM@": shlex.quote(program),
        "@SETTINGS@": shlex.join(settings),
    }
    script = re.sub(r"@[A-Z_]+@", lambda found: values[found[0]], _TEMPLATE.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(script)
            os.fchmod(file.fileno(), 0o755)
        Path(fresh).rename(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    return path
