"""The other containers of a pod: which of them run, and which files they have open for writing.

They may be anybody's, protected or not, so it is runc that is asked, and /proc (proc_pid_fdinfo(5), proc_pid_map_files(5)).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeworker import bundle
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.domain import pod_annotations
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import ContainerId

_READ_ONLY: Final = 1
"""MS_RDONLY among the flags of a mount in runc's state.json."""
Identity = tuple[int, int]
"""A file's device and inode."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One running container of the same pod."""

    pids: tuple[int, ...]
    writable: frozenset[str]
    """Names of the emptyDirs that it may write to."""


def of(runc: Runc, root: Path, container_id: ContainerId, live: bundle.Bundle) -> list[Peer]:
    """List the running containers of a container's pod, but itself and the sandbox."""
    return list(_of(runc, root, container_id, live)) if live.sandbox else []


def _of(runc: Runc, root: Path, container_id: ContainerId, live: bundle.Bundle) -> Iterator[Peer]:
    wanted = live.sandbox.encode()
    for folder in root.iterdir():
        if folder.name in {container_id, live.sandbox}:
            continue
        with suppress(OSError, FailureError, KeyError, ValueError):
            if wanted not in (folder / "state.json").read_bytes():
                continue
            state = runc.state(root, ContainerId(folder.name))
            said = pod_annotations.read(state.annotations, folder.name)
            of_this_pod = said is not None and said.sandbox == live.sandbox and said.type != "sandbox"
            if of_this_pod and state.status != "stopped":
                yield Peer(state.freezer.pids(), frozenset(_writable(state, live.facts.pod_uid)))


def _writable(state: RuncState, pod_uid: str | None) -> Iterator[str]:
    for mount in state.config.get("mounts") or ():
        name = bundle.volume_name(str(mount.get("source", "")), pod_uid)
        if name is not None and not int(mount.get("flags") or 0) & _READ_ONLY:
            yield name


def written_by(pids: Iterable[int]) -> frozenset[Identity]:
    """Tell which files these processes have open, or mapped and shared, for writing."""
    found: set[Identity] = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError, ValueError):
                    if _opened_for_writing(pid, descriptor.name):
                        status = descriptor.stat()
                        found.add((status.st_dev, status.st_ino))
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                place, modes, _, _, inode = line.split(maxsplit=5)[:5]
                if modes[1] == "w" and modes[3] == "s" and inode != "0":
                    with suppress(OSError):
                        status = Path(f"/proc/{pid}/map_files/{place}").stat()
                        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _opened_for_writing(pid: int, descriptor: str) -> bool:
    for line in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False
