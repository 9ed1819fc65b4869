"""What a machine lets tests do with users and AppArmor, and a profile to do it with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from woodfrog.service.procfs import status_fields

CAP_SYS_RESOURCE: Final = 24
MAY: Final = bool(int(status_fields(os.getpid())["CapEff"], 16) >> CAP_SYS_RESOURCE & 1)
needs_limits = pytest.mark.skipif(
    not MAY, reason="this machine's root lacks CAP_SYS_RESOURCE, without which CRIU dumps processes of root only"
)
APPARMOR: Final = Path("/sys/module/apparmor/parameters/enabled")
needs_apparmor = pytest.mark.skipif(
    not APPARMOR.exists() or APPARMOR.read_text().strip() != "Y" or shutil.which("apparmor_parser") is None,
    reason="AppArmor is not enabled on this machine",
)


@contextmanager
def profile(folder: Path) -> Iterator[str]:
    """A profile that allows all but one directory, loaded into the kernel."""
    name = f"woodfrog-test-{os.getpid()}"
    text = folder / "profile"
    text.write_text(
        f"profile {name} flags=(attach_disconnected,mediate_deleted) {{\n"
        "  file,\n  network,\n  capability,\n  signal,\n  ptrace,\n  unix,\n  mount,\n  umount,\n  pivot_root,\n  deny /data/denied/** w,\n}\n"
    )
    subprocess.run(["apparmor_parser", "--skip-cache", "--replace", text], check=True, capture_output=True, timeout=60)
    try:
        yield name
    finally:
        subprocess.run(
            ["apparmor_parser", "--skip-cache", "--remove", text], check=False, capture_output=True, timeout=60
        )
