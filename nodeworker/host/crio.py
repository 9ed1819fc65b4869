"""CRI-O: a runtime of its own by a drop-in file, which CRI-O merges, so nothing of the administrator's is touched.

crio.conf.d(5) files are read in lexical order and merged table by table; runtimes are among what a reload takes over.

Nothing is put into ``allowed_annotations``. That list opens annotations which CRI-O itself acts on and otherwise filters out,
such as ``io.kubernetes.cri-o.Devices``; all others, ours among them, reach config.json by themselves. A name that is not in
CRI-O's own list makes it drop the runtime (pkg/config/config.go, validateAllowedAndGenerateDisallowedAnnotations), and
``crio config`` does not notice.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain.containerd_config import HANDLER
from nodeworker.host.paths import Places
from woodfrog.protocol.failures import Failure, FailureError

_SECONDS: Final = 30
_DROP_IN: Final = """\
# Woodfrog's runtime; `woodfrog-node uninstall` removes this file.
[crio.runtime.runtimes.{handler}]
runtime_path = "{runtime}"
runtime_type = "oci"
"""


def present(places: Places) -> bool:
    """Whether this node has a CRI-O."""
    return places.crio.is_dir()


def install(places: Places) -> bool:
    """Write the drop-in and have CRI-O take it over; return whether anything changed.

    Raises:
        FailureError: ``crio-config`` when CRI-O does not accept it; it is gone again then.
    """
    path, content = drop_in(places), _DROP_IN.format(handler=HANDLER, runtime=places.runtime)
    if path.exists() and path.read_text() == content:
        _reload()  # it may have been written by somebody who was killed before this
        return False
    path.parent.mkdir(exist_ok=True)
    _write(path, content)
    crio = shutil.which("crio")
    if crio:
        try:
            subprocess.run([crio, "config"], capture_output=True, text=True, timeout=_SECONDS, check=True)
        except subprocess.SubprocessError as problem:
            path.unlink()
            raise FailureError(
                Failure(
                    "crio-config",
                    f"CRI-O does not accept {path}; it was removed again",
                    "Run `crio config` to see what speaks against its configuration.",
                    (getattr(problem, "stderr", None) or str(problem)).strip()[-1000:],
                )
            ) from problem
    _reload()
    return True


def uninstall(places: Places) -> bool:
    """Remove the drop-in; return whether there was one."""
    path = drop_in(places)
    if not path.exists():
        _reload()
        return False
    path.unlink()
    with suppress(OSError):
        path.parent.rmdir()
    _reload()
    return True


def drop_in(places: Places) -> Path:
    """Where our part of the configuration lies."""
    return places.crio / "crio.conf.d/10-woodfrog.conf"


def _write(path: Path, content: str) -> None:
    """Write the file as a whole: CRI-O does not start on half of one, and reads whatever else lies in that directory."""
    fresh = path.parent.with_name(f".{path.name}.fresh")
    with fresh.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def _reload() -> None:
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and (process / "comm").read_text().strip() == "crio":
                os.kill(int(process.name), signal.SIGHUP)
