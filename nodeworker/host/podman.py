"""The Podman of this machine: giving it our runtime by a drop-in file, and taking the runtime away again.

Podman has no daemon: every call reads its configuration, so there is nothing to reload. It knows a container's runtime by its
name alone, so a container that runs could not be stopped without the file.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain.containerd_config import HANDLER
from nodeworker.domain.engine_config import podman_drop_in
from nodeworker.errors import refusal
from nodeworker.host.containerd import replace

DROP_IN: Final = Path("/etc/containers/containers.conf.d/50-woodfrog.conf")
_SECONDS: Final = 60


def install(runtime: Path, drop_in: Path = DROP_IN) -> bool:
    """Write the drop-in file; return whether anything changed.

    Raises:
        FailureError: ``engine-missing``; ``engine-config`` if Podman does not take it: the file is as it was then.
    """
    if shutil.which("podman") is None:
        raise refusal("engine-missing", "there is no Podman on this machine", "Install Debian's podman.")
    content = podman_drop_in(str(runtime))
    before = drop_in.read_text() if drop_in.exists() else None
    if before == content:
        return False
    replace(drop_in, content.encode())
    done = _podman("--runtime", HANDLER, "info", "--format", "{{.Host.OCIRuntime.Path}}")
    if done.returncode != 0 or done.stdout.strip() != str(runtime):
        if before is None:
            _remove(drop_in)
        else:
            replace(drop_in, before.encode())
        raise refusal(
            "engine-config",
            f"Podman does not take the runtime over from {drop_in}",
            "The file is as it was. See whether CONTAINERS_CONF is set, and what `podman --runtime cedana info` says.",
            (done.stderr or done.stdout).strip()[-1000:],
        )
    return True


def uninstall(drop_in: Path = DROP_IN) -> bool:
    """Remove the drop-in file; return whether there was one.

    Raises:
        FailureError: ``engine-in-use`` while a container of the runtime runs.
    """
    if not drop_in.exists():
        return False
    running = _running()
    if running:
        raise refusal(
            "engine-in-use",
            f"Podman could not stop these containers any more, which run with the runtime {HANDLER}: {', '.join(running)}",
            "Stop them first; `podman stop` takes their final snapshots.",
        )
    _remove(drop_in)
    return True


def _running() -> list[str]:
    if shutil.which("podman") is None:
        return []
    names = _podman("ps", "--format", "{{.Names}}").stdout.split()
    if not names:
        return []
    lines = _podman(
        "inspect", "--type", "container", "--format", "{{.OCIRuntime}} {{.Name}}", *names
    ).stdout.splitlines()
    return [name for runtime, _, name in (line.partition(" ") for line in lines) if runtime == HANDLER]


def _podman(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *words], capture_output=True, text=True, timeout=_SECONDS, check=False)


def _remove(drop_in: Path) -> None:
    drop_in.unlink(missing_ok=True)
    with suppress(OSError):
        drop_in.parent.rmdir()
