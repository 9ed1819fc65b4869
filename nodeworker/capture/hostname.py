"""Host names: which ones are in force in a namespace, and which ones CRIU is going to set.

Reading another namespace's names means entering it, which a thread can do for itself alone; setns(2).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nodeworker.capture.criu import image_files
from nodeworker.domain.uts_image import with_names
from woodfrog.service import libc

_SYSCTLS: Final = Path("/proc/sys/kernel")


def names_in(namespace: Path) -> dict[str, str]:
    """Read the ``hostname`` and ``domainname`` of a UTS namespace; empty if it cannot be entered."""
    found: dict[str, str] = {}

    def read() -> None:
        try:
            libc.enter(namespace, libc.CLONE_NEWUTS)
        except OSError:
            return
        for name in ("hostname", "domainname"):
            found[name] = (_SYSCTLS / name).read_text().rstrip("\n")

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found


def name_images(images: Path, names: Mapping[str, str]) -> bool:
    """Let CRIU set these names with the images in a directory; say whether that is certain."""
    renamed = False
    for image in images.glob("utsns-*.img"):
        try:
            image_files.replace(images, {image.name: with_names(image.read_bytes(), names)})
        except (OSError, ValueError):
            return False
        renamed = True
    return renamed
