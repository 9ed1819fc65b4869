"""How often a container's processes have been restored, in a file in the container: ``/.woodfrog/generation``.

A program that has read it knows by another number that it was restored since. It is written into the container's own file system
before the processes are there, so nobody ever sees an old number after a restore; a container that was never restored has no
such file. It travels with the layer like any other file, and is undone with it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.bundle import Bundle
from nodeworker.capture import overlay, trees
from nodeworker.capture.criu import image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.criu_images import MalformedImageError
from nodeworker.domain.criu_images.held_files import without_sizes
from woodfrog.protocol.manifest import Entry, Tree, TreeName

_FOLDER: Final = ".woodfrog"
_FILE: Final = "generation"


def put(live: Bundle, number: int, images: Path) -> None:
    """Write it into a container that is being created; not where it could not be taken out again.

    A process that holds it open comes back although the number has a digit more, which CRIU would refuse: its ``images`` are changed.

    Raises:
        FailureError, OSError: what ``apply_tree`` raises.
    """
    if overlay.find_overlay(live.rootfs) is None:
        return
    data = f"{number}\n".encode()
    now = time.time_ns()
    folder = Entry(_FOLDER, "directory", 0o755, mtime_ns=now)
    file = Entry(f"{_FOLDER}/{_FILE}", "file", 0o644, mtime_ns=now, size_bytes=len(data))

    def read_into(_entry: Entry, descriptor: int) -> None:
        os.write(descriptor, data)

    trees.apply_tree(Tree(TreeName.LAYER, (folder, file)), live.rootfs, read_into)
    if len(str(number)) > len(str(number - 1)):
        with suppress(MalformedImageError):  # then CRIU says what it thinks of them
            image_files.replace(images, without_sizes(ImageFiles(images), {("/", f"{_FOLDER}/{_FILE}")}))


def remove(rootfs: Path) -> None:
    """Take it out of a container that starts from its image in a file system of before, as Docker's ``start`` does."""
    with suppress(OSError):
        folder = os.open(rootfs / _FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.unlink(_FILE, dir_fd=folder)
        finally:
            os.close(folder)
