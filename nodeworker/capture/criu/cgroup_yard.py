"""The cgroup hierarchy as CRIU is shown it on a node with cgroup v2.

Left to itself, CRIU mounts cgroup2 for each dump and each restore, without options. In the host's cgroup namespace such a
mount takes ``nsdelegate`` and ``memory_recursiveprot`` away from the whole machine (kernel/cgroup/cgroup.c,
``apply_cgroup_root_flags``), which systemd had set. With the option ``cgroup-yard`` CRIU uses a directory that is there. It has
an entry for each hierarchy; that of v2 is called ``unified`` (``ctrl_dir_and_opt`` in criu/cgroup.c).

The entry is a relative link: CRIU follows it from processes whose root directory is the container's already, where an
absolute one would lead into the container.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_HIERARCHY: Final = Path("/sys/fs/cgroup")


def make_yard(run_dir: Path, cgroup_version: int | None) -> Path | None:
    """Make the directory for ``cgroup-yard`` under ``run_dir``; ``None`` on a node with cgroup v1, which needs none.

    Raises:
        OSError: if it cannot be made.
    """
    if cgroup_version != 2:
        return None
    yard = run_dir / "cgroup-yard"
    yard.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = os.path.relpath(_HIERARCHY, yard.resolve())
    entry = yard / "unified"
    if not entry.is_symlink() or str(entry.readlink()) != target:
        entry.unlink(missing_ok=True)
        entry.symlink_to(target)
    return yard
