"""The list of paths by which CRIU finds what a process watches: ``irmap-cache``, written before a dump.

inotify knows inodes, and overlay opens none of them by a handle. CRIU then looks for the inode among the files of a few directories of the
host (criu/irmap.c), where no program watches. In its working directory it finds this list first, and believes an entry whose path has
that inode still. (images/fh.proto, ``irmap_cache_entry``; criu/include/magic.h.)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from nodeworker.domain.criu_images.protobuf import data_field, number_field

NAME: Final = "irmap-cache"
_MAGIC: Final = struct.pack("<II", 0x55105940, 0x57004059)
_LENGTH: Final = struct.Struct("<I")

Inode = tuple[int, int]
"""Device, as the kernel writes it into ``fdinfo``, and number."""


def paths_image(found: Mapping[Inode, str]) -> bytes:
    """Write the list of paths, each of them as the container sees it."""
    entries = [
        number_field(1, device) + number_field(2, inode) + data_field(3, path.encode("utf-8", "surrogateescape"))
        for (device, inode), path in found.items()
    ]
    return _MAGIC + b"".join(_LENGTH.pack(len(entry)) + entry for entry in entries)
