"""Whose word counts for a file of a volume that several containers of a pod share, when one of them is restored.

Its snapshot holds the volume as that container left it; another container that runs already may have resumed from there.
Replacing a file under a running writer would tear the two apart, and so would leaving an old one to the restored processes.
"""

from __future__ import annotations

import stat

from woodfrog.protocol.manifest import Entry

_MEETING_POINTS = {"socket": stat.S_IFSOCK, "fifo": stat.S_IFIFO}


def stays(entry: Entry, *, mode: int, mtime_ns: int, held: bool, returning: bool) -> bool:
    """Say whether what is there stays, while another container of the pod runs that may write there.

    ``held``: a running container has it open for writing. ``returning``: the container has lived in this pod before, so
    what is newer is what its own later, lost steps wrote; else it is what the others wrote since they went on. At the same
    time the snapshot wins: writing through a mapping leaves no trace in a tmpfs file's time.
    """
    if held or _MEETING_POINTS.get(entry.kind) == stat.S_IFMT(mode):
        return True
    return not returning and mtime_ns > entry.mtime_ns
