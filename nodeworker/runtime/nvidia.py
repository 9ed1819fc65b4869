"""Letting nvidia-container-runtime prepare a bundle for ``restore`` as it does for ``create``.

It puts devices, driver files and hooks into config.json for the verb ``create`` only, then hands over to the low-level runtime
that it finds by name in PATH; every other verb it passes through (HasCreateSubcommand and the README of its command in
NVIDIA/nvidia-container-toolkit). So it is asked for a ``create`` with a low-level runtime in PATH that does nothing, and what it
has made of the bundle is restored: devices and driver files come from this node and this pod, whatever a snapshot says.
"""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import os

from nodeworker.runtime import children

_NAME = "nvidia-container-runtime"
_LOW_LEVEL = ("docker-runc", "runc", "crun")
"""What its ``runtimes`` setting holds, unless somebody changed it to a path."""
_NOTHING = "#!/bin/sh\nexit 0\n"


def is_chained(runc: str) -> bool:
    """Whether the node's runtime is nvidia-container-runtime, or one of its variants (``.cdi``, ``.legacy``)."""
    return os.path.basename(runc).startswith(_NAME)


def prepare(runc: str, arguments: list[str], folder: str) -> int:
    """Let it change the bundle that ``arguments`` name, without a container coming about; returns its exit code.

    Raises:
        OSError: if the stand-in for the low-level runtime cannot be written.
    """
    stand_ins = os.path.join(folder, "nothing")
    os.makedirs(stand_ins, mode=0o700, exist_ok=True)
    paths = [os.path.join(stand_ins, name) for name in _LOW_LEVEL]
    try:
        for path in paths:
            with open(path, "w", encoding="ascii") as file:
                file.write(_NOTHING)
            os.chmod(path, 0o700)
        return children.wait(children.spawn([runc, *arguments], path_first=stand_ins))
    finally:
        for path in paths:
            if os.path.exists(path):
                os.unlink(path)
        os.rmdir(stand_ins)
