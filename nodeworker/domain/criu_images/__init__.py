"""CRIU's images as far as the worker reads them: what the processes may do and what is mounted, and how to take some of it away.

Every function takes the images as a mapping from names to contents, such as ``nodeworker.capture.criu.image_files.ImageFiles``;
what :func:`lower` returns is put in place by ``nodeworker.capture.criu.image_files.replace``.
"""

from __future__ import annotations

from nodeworker.domain.criu_images.lowering import CannotLowerError, left_writable, lower
from nodeworker.domain.criu_images.privileges import mounted_places, read_privileges
from nodeworker.domain.criu_images.protobuf import MalformedImageError
from nodeworker.domain.criu_images.repairs import repaired

__all__ = [
    "CannotLowerError",
    "MalformedImageError",
    "left_writable",
    "lower",
    "mounted_places",
    "read_privileges",
    "repaired",
]
