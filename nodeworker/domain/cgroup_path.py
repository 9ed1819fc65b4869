"""Which cgroup a runtime makes for a container, derived from the bundle before it is made.

On cgroup v1 runc tells CRIU the new container's cgroups itself, but not what the container has at /sys/fs/cgroup. On v2 runc
up to 1.2 tells nothing, and CRIU puts restored processes into the cgroup that the dumped ones were in. So CRIU's
configuration names the new one, and its path must be known before ``runc restore``. Sources: runc 1.1 to 1.3, ``CreateCgroupConfig`` in libcontainer/specconv/spec_linux.go;
``getSlice``, ``ExpandSlice`` and ``getUnitName`` in libcontainer/cgroups/systemd; ``_defaultDirPath`` in
libcontainer/cgroups/fs2/defaultpath.go. Whether the path was right is checked after each restore.
"""

from __future__ import annotations

import posixpath
from typing import Final

_SYSTEM_SLICE: Final = "system.slice"
_UNIT_NAME_MAX: Final = 255
"""systemd.unit(5)."""
_SYSTEMD_PARTS: Final = 3


def absolute_path(cgroups_path: str) -> str:
    """Return the path of a container's cgroup, from the root of a hierarchy on: of the one of v2, or of any of v1.

    ``cgroups_path`` is ``linux.cgroupsPath`` of config.json: ``slice:prefix:name`` where the engine uses the systemd
    driver, a path where it uses cgroupfs.

    Raises:
        ValueError: if it is relative or empty, because runc then begins at its own cgroup, or if the slice's name is not
            one that systemd allows.
    """
    parts = cgroups_path.split(":")
    if len(parts) == _SYSTEMD_PARTS and not cgroups_path.startswith("/"):
        slice_name, prefix, name = parts
        unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
        return posixpath.join(expand_slice(slice_name or _SYSTEM_SLICE), unit)
    if not cgroups_path.startswith("/"):
        raise ValueError(f"linux.cgroupsPath is {cgroups_path!r:.200}, which is not an absolute path")
    return posixpath.normpath(cgroups_path)


def expand_slice(name: str) -> str:
    """Return the path of a systemd slice: ``a-b.slice`` lies in ``a.slice`` (systemd.slice(5)).

    Raises:
        ValueError: if it is not a slice's name.
    """
    if name == "-.slice":
        return "/"
    stem = name.removesuffix(".slice")
    if stem == name or "/" in stem or not all(stem.split("-")) or len(name) > _UNIT_NAME_MAX:
        raise ValueError(f"{name!r:.200} is not the name of a slice")
    pieces = stem.split("-")
    return "/" + "/".join("-".join(pieces[: count + 1]) + ".slice" for count in range(len(pieces)))
