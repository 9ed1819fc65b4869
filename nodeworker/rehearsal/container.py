"""One rehearsal from inside: the snapshot is put together as for a start, restored, looked at, and left to end with this process.

It goes the way of a real restore (``nodeworker.restore.restore`` and the runtime's ``create``): the same repairs of the images, the same
comparison with the spec, the same runc and CRIU with the same configuration, whose ``leave-stopped`` lets no process run.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from nodeworker import bundle
from nodeworker.bundle import Bundle
from nodeworker.capture import cgroup_v1, hostname, user_namespace
from nodeworker.capture.criu import criu, image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.trees import CapturedTree, ReadInto
from nodeworker.domain import criu_complaints
from nodeworker.domain.criu_images import MalformedImageError
from nodeworker.domain.criu_images.tasks import read_tree
from nodeworker.domain.criu_options import CriuConfig, parse_version
from nodeworker.domain.rehearsal import RESTORABLE, Verdict, objection_to, rehearsal_spec, skipped, verdict_on
from nodeworker.errors import failure_of, refusal
from nodeworker.rehearsal import mounts
from nodeworker.rehearsal.task import RehearsalTask
from nodeworker.restore import connections, privilege_check, restore_files, volume_check
from nodeworker.runtime.container import State
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.manifest import Entry, Tree, TreeName

_NAME: Final = "rehearsal"
_MEMORY: Final = re.compile(r"pages-\d+\.img", re.ASCII)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_NOT_PUT: Final = frozenset({TreeName.PROCESSES, TreeName.CONFIG})
"""What the kubelet put into a volume is there as it was at the dump."""


def rehearse(task: RehearsalTask) -> Verdict:
    """Restore and look; the container is there, stopped, when this returns."""
    scratch = Path(task.scratch)
    spec = json.loads((Path(task.bundle) / "config.json").read_bytes())
    if (objection := objection_to(spec)) is not None:
        return skipped(objection)
    try:
        mounts.own_mounts(scratch, task.limit_bytes)
        _set_loopback_up()
        live = bundle.read(task.bundle)
        images, bundle_folder = _prepare(task, live, spec, scratch)
    except (OSError, ValueError, KeyError, FailureError) as problem:
        return verdict_on(_as_place(failure_of(problem)))
    failure = _restore(task, spec, images, bundle_folder, scratch)
    return RESTORABLE if failure is None else verdict_on(failure)


def _as_place(failure: Failure) -> Failure:
    """Nothing that goes wrong before CRIU looks at the images speaks against them, nor what runc alone complains of."""
    return skipped(f"{failure.cause} ({failure.code})").failure or failure


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, suppress(OSError):
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _prepare(task: RehearsalTask, live: Bundle, spec: Mapping[str, Any], scratch: Path) -> tuple[Path, Path]:
    """Cover what is outside, put the snapshot's files there, and make the images ready; return images and bundle."""
    spool = Spool(Path(task.spool))
    trees = spool.read_list()
    mounts.cover(live, dict(spec), scratch)
    notes = scratch / "notes"
    notes.mkdir()
    put = {(tree.name, tree.volume): tree for tree in trees if tree.name not in _NOT_PUT}
    restore_files.apply(
        tuple(Tree(tree.name, tuple(tree.entries), tree.root, tree.volume) for tree in put.values()),
        live,
        notes,
        lambda tree: _reader(put[tree.name, tree.volume]),
        restore_files.PodPeers(list, returning=False),
    )
    images = scratch / "images"
    _copy_images(spool.images, images)
    if task.spec is not None:
        privilege_check.check(images, live, task.spec, task.recorded, parse_version(task.criu_version))
    volume_check.check(images, live, spool.read_aside().held_files, ignore=True)
    hostname.name_images(images, live.names)
    image_files.repair(images)
    own_network = Path(f"/proc/{os.getpid()}/ns/net") if live.network is not None else None
    restored = connections.prepare(images, msgspec.structs.replace(live, network=own_network))
    if task.id_mapped:
        user_namespace.let_in(images)
    folder = scratch / _NAME
    folder.mkdir()
    places = task.cgroup if task.cgroup_version == 2 else None, cgroup_v1.mounts(task.cgroup, live.cgroup_mounts)
    config = CriuConfig(task.criu_version, task.yard).for_restore(*places, keep=restored.keep)
    (folder / "criu.conf").write_text(config)
    changed = rehearsal_spec(
        spec,
        folder=task.bundle,
        cgroups_path=task.cgroup,
        criu_config=str(folder / "criu.conf"),
        pid=os.getpid(),
    )
    (folder / "config.json").write_text(json.dumps(changed))
    return images, folder


@contextmanager
def _reader(tree: CapturedTree) -> Iterator[ReadInto]:
    def read(entry: Entry, descriptor: int) -> None:
        with tree.contents[entry.path].open("rb") as file:
            while os.sendfile(descriptor, file.fileno(), None, 1 << 30):
                pass

    yield read


def _copy_images(source: Path, target: Path) -> None:
    """Copy CRIU's images, which are changed before a restore, and show those of memory at the same names."""
    target.mkdir(mode=0o700)
    for each in source.iterdir():
        copy = target / each.name
        if _MEMORY.fullmatch(each.name):
            copy.touch(mode=0o600)
            mounts.bind(each, copy)
        elif each.is_dir():
            shutil.copytree(each, copy)
        else:
            shutil.copy2(each, copy)


def _restore(task: RehearsalTask, spec: Mapping[str, Any], images: Path, folder: Path, scratch: Path) -> Failure | None:
    work, log, root = scratch / "work", scratch / "runc.log", scratch / "runc"
    work.mkdir()
    runc = Runc(Path(task.runc), Path(task.criu))
    command = [task.runc, f"--root={root}", f"--log={log}", "--log-format=json", "restore", "--detach"]
    command += [f"--bundle={folder}", f"--image-path={images}", f"--work-path={work}", "--ext-unix-sk", "--file-locks"]
    with _console(scratch) if (spec.get("process") or {}).get("terminal") else _pipes() as (options, streams):
        os.setgroups([])
        done = subprocess.run(
            [*command, *options, _NAME], env=runc.environment(), check=False, stdin=streams[0], stdout=streams[1], stderr=streams[2]
        )  # fmt: skip
        if done.returncode == 0:
            return _problem(State(str(root), _NAME), images)
    with suppress(OSError):
        Path(task.log).parent.mkdir(exist_ok=True, mode=0o700)
        shutil.copyfile(work / "restore.log", task.log)
    said = log.read_text(errors="replace") if log.exists() else ""
    failure = criu.explain(work / "restore.log", said, runc.criu)
    is_criu = failure.code == criu_complaints.CRASHED or criu.has_complained(work / "restore.log")
    return failure if is_criu else _as_place(failure)


@contextmanager
def _pipes() -> Iterator[tuple[list[str], list[int]]]:
    """Yield pipes for the standard streams, as an engine has them."""
    ends = [os.pipe() for _ in range(3)]
    yield [], [ends[0][0], ends[1][1], ends[2][1]]


@contextmanager
def _console(scratch: Path) -> Iterator[tuple[list[str], list[int]]]:
    """Listen for the terminal that runc makes, and leave it there."""
    place = scratch / "console"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()
    nothing = os.open(os.devnull, os.O_RDWR)
    yield [f"--console-socket={place}"], [nothing, nothing, nothing]


def _problem(state: State, images: Path) -> Failure | None:
    """Look at the restored processes: all are there, in the container's cgroup, and none has run."""
    if not state.alive:
        return refusal("criu-failed", "the restored container ended at once", "").failure
    if outside := state.outside():
        return refusal("cgroup-misplaced", f"{len(outside)} processes are not in the container's cgroup", "").failure
    running = [pid for pid in state.pids() if not criu.stopped_pids([pid])]
    if running:
        return refusal("internal", f"{len(running)} restored processes were not left stopped", "").failure
    with suppress(MalformedImageError, OSError):
        expected = len(read_tree(ImageFiles(images)).tasks)
        if len(state.pids()) < expected:
            return refusal("criu-failed", f"{len(state.pids())} of {expected} processes were restored", "").failure
    return None
