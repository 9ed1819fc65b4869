"""The device nodes of a restored container: those that its live bundle names, whatever the snapshot brought along.

/dev of a container is a tmpfs, and CRIU brings a tmpfs back with everything in it: the nodes of the GPUs of the dump. The new
container may have others, and before the driver opens them in the restored process, its /dev must show just those. The path
is walked one name at a time without following links, for what lies in the container may lead anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec

from nodeworker.domain.gpu import DEVICE_NODES
from woodfrog.protocol.failures import Failure, FailureError

_MODE: Final = 0o666
"""What NVIDIA's nodes have everywhere, unless the bundle says otherwise."""


class DeviceNode(msgspec.Struct, frozen=True, rename={"mode": "fileMode"}):
    """One entry of ``linux.devices`` in a config.json."""

    path: str
    major: int
    minor: int
    mode: int | None = None
    uid: int = 0
    gid: int = 0


def renew(pid: int, devices: Sequence[dict[str, Any]]) -> None:
    """Give the container of process ``pid`` exactly the NVIDIA device nodes among these of its bundle, if there are any.

    Without any (an engine that bind-mounts them) there is nothing to do: mounts come from the live bundle already.

    Raises:
        FailureError: ``gpu-devices``.
    """
    nodes = (msgspec.convert(device, DeviceNode) for device in devices if device["path"].startswith(DEVICE_NODES))
    wanted = {node.path: node for node in nodes}
    if not wanted:
        return
    try:
        with _folder(f"/proc/{pid}/root", ["dev"]) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 -- a descriptor
                path = f"/dev/{name}"
                if path.startswith(DEVICE_NODES) and path not in wanted and _is_device(folder, name):
                    os.unlink(name, dir_fd=folder)
        for path, node in wanted.items():
            _make(pid, path, node)
    except OSError as problem:
        cause = f"the container's GPU device nodes could not be set right: {problem}"
        raise FailureError(Failure("gpu-devices", cause, "See what lies in the container's /dev.")) from problem


def _make(pid: int, path: str, node: DeviceNode) -> None:
    *parents, name = path.strip("/").split("/")
    with _folder(f"/proc/{pid}/root", parents) as folder:
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(node.major, node.minor):
                return
            os.unlink(name, dir_fd=folder)
        os.mknod(name, stat.S_IFCHR | _MODE, os.makedev(node.major, node.minor), dir_fd=folder)
        os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
        # mknod obeys the umask; the node was made just now, in a folder of processes that stand still.
        os.chmod(f"/proc/self/fd/{folder}/{name}", (node.mode or _MODE) & 0o777)  # noqa: PTH101 -- by descriptor


def _is_device(folder: int, name: str) -> bool:
    return stat.S_ISCHR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


@contextmanager
def _folder(root: str, names: Sequence[str]) -> Iterator[int]:
    """Open a folder below ``root``, made where it is missing, without following a link on the way."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=at)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)
