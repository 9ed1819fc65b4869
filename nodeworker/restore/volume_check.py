"""A look at the volumes before a restore: whether the files that the snapshot's processes hold are still those of the dump."""

from __future__ import annotations

import os
from pathlib import Path

from nodeworker.bundle import Bundle
from nodeworker.capture import volume_files
from nodeworker.capture.criu import image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain import volume_changes
from nodeworker.domain.criu_images.held_files import without_sizes
from nodeworker.domain.filename_codec import bytes_of
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import HeldFile


def check(images: Path, live: Bundle, files: tuple[HeldFile, ...], *, ignore: bool) -> tuple[str, ...]:
    """Compare files with what was recorded of them, and return warnings of the start.

    With ``ignore``, CRIU is kept from comparing the sizes that differ: the container's owner said so, or the container runs on
    and changes them itself.

    Raises:
        FailureError: ``volume-changed``, naming the files.
        MalformedImageError, OSError: the images could not be changed.
    """
    if not files:
        return ()
    places = live.outside
    there = (file for file in files if file.mount in places)
    now = {file: found for file in there if (found := volume_files.size_and_time(file, places[file.mount])) is not None}
    changed = volume_changes.changes(files, now)
    if changed and not ignore:
        raise FailureError(volume_changes.failure(changed))
    if changed:
        names = {(each.file.mount, os.fsdecode(bytes_of(each.file.path))) for each in changed}
        image_files.replace(images, without_sizes(ImageFiles(images), names))
    return (*volume_changes.grown(files, now), *volume_changes.ignored(changed))
