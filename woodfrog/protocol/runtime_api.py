"""What the OCI runtime and the command line say to the node worker over its unix socket.

One request a connection: a line of JSON, answered by a line of JSON. The runtime's slow path is stdlib-only Python that
starts with every protected container, so it writes these messages as plain dictionaries; the names here are the contract.
"""

from __future__ import annotations

import msgspec

from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId


class _Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask"):
    pass


class CreateRequest(_Ask, frozen=True, tag="create"):
    """How shall the container in this bundle be created? The answer may take as long as a hand-over and a fetch."""

    container_id: ContainerId
    bundle: str
    runc_root: str
    checkpoint_id: str
    """As the user wrote it; the worker checks it."""


class RestoreFailedNotification(_Ask, frozen=True, tag="restore-failed"):
    """``runc restore`` failed and ``runc delete`` cleaned up. Answered like :class:`CreateRequest`, with the next best way."""

    container_id: ContainerId
    message: str


class ProofRequest(_Ask, frozen=True, tag="proved"):
    """``runc restore`` is done. Is every byte proved that it was given? :class:`Done`, or else :class:`Refused`."""

    container_id: ContainerId


class GpuRestoreRequest(_Ask, frozen=True, tag="gpus"):
    """``runc restore`` succeeded: bring back what lay on the GPUs, and what CRIU does not; the processes stand until ``start``.

    Answered by :class:`Done`, or by :class:`Refused`: then clean up and send :class:`RestoreFailedNotification`.
    """

    container_id: ContainerId


class StartedNotification(_Ask, frozen=True, tag="started"):
    """The container's processes run."""

    container_id: ContainerId


class StopRequest(_Ask, frozen=True, tag="stop"):
    """The stop signal arrived: take the final dump and end the container."""

    container_id: ContainerId


class DeletedNotification(_Ask, frozen=True, tag="deleted"):
    """``runc delete`` removed the container."""

    container_id: ContainerId
    exit_code: int | None = None


class ListContainersRequest(_Ask, frozen=True, tag="containers"):
    """Which protected containers are on this node?"""


LocalAsk = (
    CreateRequest
    | RestoreFailedNotification
    | ProofRequest
    | GpuRestoreRequest
    | StartedNotification
    | StopRequest
    | DeletedNotification
    | ListContainersRequest
)


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="answer"):
    pass


class CreateRestored(_Answer, frozen=True, tag="restore"):
    """Run ``runc restore`` with these directories in place of ``create``."""

    snapshot_id: SnapshotId
    image_path: str
    work_path: str
    criu_config: str
    """Path of the CRIU configuration file to name in the annotation ``org.criu.config``."""
    stopped_pids: tuple[int, ...] = ()
    """Pids inside the container that ``start`` must not continue."""
    unproved: bool = False
    """Whether memory is still being compared with its digests. Ask :class:`ProofRequest` before anybody may run."""
    names_set: bool = False
    """Whether CRIU is going to set the host name of the new container by itself, and not the one of the dump."""
    lsm_profile: str = ""
    """For ``runc restore --lsm-profile``: by what the processes are confined, in place of what confined them at the dump."""
    limit_seconds: float = 0.0
    """How long ``runc restore`` may take; 0 is no limit."""
    gpus: bool = False
    """Whether to ask for the GPUs (:class:`GpuRestoreRequest`) before the container counts as created."""


class CreateCold(_Answer, frozen=True, tag="cold"):
    """Run ``runc create``."""

    criu_config: str
    reason: str
    unprotected: bool = False
    """Whether it starts without anything being captured of it, because of ``reason``."""
    deny_io_uring: bool = False
    """Whether the container's seccomp profile is to answer ENOSYS to io_uring."""


class Refused(_Answer, frozen=True, tag="refused"):
    """Do not create the container; show the failure to whoever asked."""

    failure: Failure


class Done(_Answer, frozen=True, tag="done"):
    """Noted."""


class Stopped(_Answer, frozen=True, tag="stopped"):
    """The final dump is captured and the container's processes are dead."""

    snapshot_id: SnapshotId


class NotDumped(_Answer, frozen=True, tag="not-dumped"):
    """No final dump could be taken; the container runs. Pass the signal on."""

    failure: Failure


class ContainerStatus(msgspec.Struct, frozen=True):
    """One protected container on this node."""

    container_id: ContainerId
    key: CheckpointKey
    incarnation: IncarnationNumber
    state: str
    """``creating``, ``created``, ``running``, ``dumping`` or ``ended``."""
    restored_from: SnapshotId | None
    captured_as: SnapshotId | None
    """The final snapshot, once the container has ended with it."""
    bundle: str
    reason: str = ""
    """Why it started as it did."""
    left: int = 0
    """How many snapshots with captured or stored work its start left behind."""
    doing: str = ""
    """What is being done for its start, while it is being created."""
    warnings: tuple[str, ...] = ()
    """What of the snapshot, or of what the container declares, is not as it might be expected."""


class Containers(_Answer, frozen=True, tag="containers"):
    """Every protected container that this worker knows."""

    containers: tuple[ContainerStatus, ...]


LocalAnswer = CreateRestored | CreateCold | Refused | Done | Stopped | NotDumped | Containers
