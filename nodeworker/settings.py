"""What a node worker may be told from outside: environment variables, read once, with a default for each.

A worker has no configuration file, so that a DaemonSet, a systemd unit and ``woodfrog dev`` start it in the same way and
``/proc/<pid>/environ`` shows all that it was told.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nodeworker.capture.bounds import DEFAULT_FILES, DEFAULT_SPARSE_BYTES, Bounds
from nodeworker.domain.rehearsal import Policy
from woodfrog.protocol.ids import NodeName
from woodfrog.service.env import Env, InvalidSettingError
from woodfrog.service.http import Address
from woodfrog.service.natstls import Trust


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one worker. Paths are absolute."""

    node: NodeName
    cluster: str
    namespace: str
    """Of containers whose bundle names none."""
    state_dir: Path
    """Survives a reboot: journal, spool, fetched snapshots."""
    run_dir: Path
    """Does not: the socket and a directory for each container."""
    nats_url: str
    nats_seed_file: Path | None = None
    """The nkey seed by which NATS knows this node."""
    nats_token_file: Path | None = None
    """The token of this pod's ServiceAccount, by which the control plane tells NATS which node this is."""
    nats_trust: Trust = Trust()
    """``WOODFROG_NATS_CA_FILE`` and ``WOODFROG_NATS_INSECURE``: see :mod:`woodfrog.service.natstls`."""
    store_url: str
    data_key_recipient_file: Path | None = None
    """``WOODFROG_DATA_KEY_RECIPIENT_FILE``: for whom the key of each snapshot is wrapped; none: snapshots have none of their own."""
    store_key_file: Path | None = None
    """Keys by which the store is encrypted; none: it is not."""
    runc: str
    criu: str
    create_limit_seconds: float
    """How long a ``create`` may wait in all: below the two minutes after which the kubelet gives up on the runtime."""
    stop_limit_seconds: float
    """How long a stop signal may wait for an earlier dump of its container that is under way before its own dump begins."""
    dumps_at_once: int
    """How many containers of the node may be captured at the same time; the others wait, stops first, the soonest deadline first."""
    nvidia_libraries: Path | None = None
    """Folder of the NVIDIA driver's libraries; by default they are looked for where they are known to be."""
    gpu_lock_seconds: float = 30.0
    """How long a dump waits for the work on a container's GPUs to end."""
    store_attempts: int
    """How often storing a capture is tried before its dump counts as failed, if nothing is lost by that."""
    store_pause_limit_seconds: float = 60.0
    """How long the pauses between these tries become."""
    spool_floor_bytes: int = 1 << 30
    """How much of the disk is kept free of captures that wait for the store and whose containers run on."""
    http_address: Address | None = None
    """``WOODFROG_HTTP_ADDRESS``: where ``/healthz``, ``/readyz`` and ``/metrics`` are shown; nowhere if it is not set."""
    probe_address: Address | None = None
    """``WOODFROG_PROBE_ADDRESS``: where ``/healthz`` and ``/readyz`` are shown as well, by a server of their own."""
    copies_bytes: int = 0
    """How much of the disk may hold unpacked copies of snapshots, for quick restores on this node; 0: there are none."""
    copies_seconds: float = 3600.0
    """How long such a copy stays."""
    copies_spare_percent: float = 10.0
    """How much of a file system copies leave free: the kubelet evicts pods below a tenth."""
    bounds_privileges: bool = True
    """``WOODFROG_PRIVILEGES``: whether what is restored may do no more than the new container's spec allows."""

    files_limit: int = DEFAULT_FILES
    """How many files and directories one dump copies at most."""
    sparse_limit_bytes: int = DEFAULT_SPARSE_BYTES
    """How large the files that one dump copies may be in all, holes included."""
    restore_limit_seconds: float = 600.0
    """How long ``runc restore`` may take, unless its owner says otherwise."""
    freeze_limit_seconds: float = 60.0
    """How long a container may stand still for a periodic snapshot; ``woodfrog.io/freeze-limit`` says otherwise for one."""
    disk_limit_bytes: int = 0
    """How much of the disk spool, fetched snapshots and copies may occupy together; 0: as much as is free."""
    prefetches_at_once: int = 4
    """How many snapshots are fetched ahead at the same time, while no container waits for its own."""
    limit_layer: bool = False
    """Whether ``woodfrog.io/volumes-limit`` is for the writable layer and /dev/shm as well."""

    rehearse: Policy = Policy.OFF
    """``WOODFROG_REHEARSE``: which snapshots are rehearsed of containers whose owners do not say; by default ``first``."""
    rehearse_memory_bytes: int = 4 << 30
    """How much memory one rehearsal may take."""
    rehearse_seconds: float = 60.0
    """How long one may take, and wait for its turn, before the snapshot is stored without it."""

    @property
    def bounds(self) -> Bounds:
        """The most that one dump copies."""
        return Bounds(files=self.files_limit, apparent_bytes=self.sparse_limit_bytes, layer_counts=self.limit_layer)

    @property
    def socket(self) -> Path:
        """Where the runtime finds the worker."""
        return self.run_dir / "worker.sock"

    @property
    def missed(self) -> Path:
        """Where the runtime notes what it could not tell, because no worker was there."""
        return self.run_dir / "missed"

    @property
    def tells(self) -> Path:
        """The pipe on which the runtime's shell part tells the worker."""
        return self.run_dir / "tells"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.state_dir / "journal.sqlite3"

    @property
    def spool(self) -> Path:
        """Captures that are not stored yet, one directory for each snapshot."""
        return self.state_dir / "spool"

    @property
    def fetched(self) -> Path:
        """Snapshots on their way into a container, one directory for each container."""
        return self.state_dir / "fetched"

    @property
    def copies(self) -> Path:
        """Snapshots that lie unpacked on this node."""
        return self.state_dir / "copies"

    @property
    def logs(self) -> Path:
        """CRIU's logs of the last dumps and restores that failed."""
        return self.state_dir / "logs"

    def container_dir(self, container_id: str) -> Path:
        """Where the runtime and the worker keep what belongs to one container."""
        return self.run_dir / "containers" / container_id


def _copies_bytes(env: Env) -> int:
    """Read how many bytes of copies may lie here: none where the store is encrypted, for they are not."""
    name = "WOODFROG_COPIES"
    return 0 if env.text(name) == "off" or env.text("WOODFROG_STORE_KEY_FILE") else env.bytes(name, 16 << 30)


def _recipient(env: Env) -> Path | None:
    file = env.file("WOODFROG_DATA_KEY_RECIPIENT_FILE")
    if file and not env.text("WOODFROG_STORE_KEY_FILE"):
        raise InvalidSettingError(
            "WOODFROG_DATA_KEY_RECIPIENT_FILE is set, and WOODFROG_STORE_KEY_FILE is not; it needs both"
        )
    return file


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings; an unset or empty variable means its default.

    Raises:
        InvalidSettingError: for the first variable whose value cannot be meant.
    """
    env = Env(environment)
    state_dir = env.folder("WOODFROG_STATE_DIR", "/var/lib/woodfrog")
    return Settings(
        node=NodeName(env.id("WOODFROG_NODE", socket.gethostname())),
        cluster=env.id("WOODFROG_CLUSTER", "local"),
        namespace=env.id("WOODFROG_NAMESPACE", "default"),
        state_dir=state_dir,
        run_dir=env.folder("WOODFROG_RUN_DIR", "/run/woodfrog"),
        nats_url=env.text("WOODFROG_NATS_URL", "nats://127.0.0.1:4222"),
        nats_seed_file=env.file("WOODFROG_NATS_SEED_FILE"),
        nats_token_file=env.file("WOODFROG_NATS_TOKEN_FILE"),
        nats_trust=Trust.from_environment(environment),
        data_key_recipient_file=_recipient(env),
        store_key_file=env.file("WOODFROG_STORE_KEY_FILE"),
        store_url=env.text("WOODFROG_STORE_URL", f"file://{state_dir}/store"),
        runc=env.text("WOODFROG_RUNC", "runc"),
        criu=env.text("WOODFROG_CRIU", "criu"),
        create_limit_seconds=env.positive("WOODFROG_CREATE_LIMIT_SECONDS", 110.0),
        stop_limit_seconds=env.positive("WOODFROG_STOP_LIMIT_SECONDS", 20.0),
        dumps_at_once=env.count("WOODFROG_DUMPS_AT_ONCE", max(2, len(os.sched_getaffinity(0)) // 2)),
        nvidia_libraries=(
            env.folder("WOODFROG_NVIDIA_LIBRARIES", "/") if env.text("WOODFROG_NVIDIA_LIBRARIES") else None
        ),
        gpu_lock_seconds=env.positive("WOODFROG_GPU_LOCK_SECONDS", 30.0),
        store_attempts=env.count("WOODFROG_STORE_ATTEMPTS", 5),
        http_address=env.address("WOODFROG_HTTP_ADDRESS"),
        probe_address=env.address("WOODFROG_PROBE_ADDRESS"),
        copies_bytes=_copies_bytes(env),
        copies_seconds=env.seconds("WOODFROG_COPIES_AGE", "1h"),
        copies_spare_percent=env.number("WOODFROG_COPIES_SPARE_PERCENT", 10.0, below=100.0),
        store_pause_limit_seconds=env.seconds("WOODFROG_STORE_PAUSE_LIMIT", "60s"),
        spool_floor_bytes=env.bytes("WOODFROG_SPOOL_FLOOR", 1 << 30),
        restore_limit_seconds=env.seconds("WOODFROG_RESTORE_LIMIT", "10m"),
        freeze_limit_seconds=env.seconds("WOODFROG_FREEZE_LIMIT", "60s"),
        files_limit=env.count("WOODFROG_FILES_LIMIT", DEFAULT_FILES),
        sparse_limit_bytes=env.bytes("WOODFROG_SPARSE_LIMIT", DEFAULT_SPARSE_BYTES),
        disk_limit_bytes=env.bytes("WOODFROG_DISK_LIMIT", 0),
        prefetches_at_once=env.count("WOODFROG_PREFETCHES_AT_ONCE", 4),
        limit_layer=env.switch("WOODFROG_LIMIT_LAYER"),
        bounds_privileges=env.one_of("WOODFROG_PRIVILEGES", "new-container", ("new-container", "snapshot"))
        == "new-container",
        rehearse=Policy(env.one_of("WOODFROG_REHEARSE", Policy.FIRST, tuple(Policy))),
        rehearse_memory_bytes=env.bytes("WOODFROG_REHEARSE_MEMORY", 4 << 30),
        rehearse_seconds=env.seconds("WOODFROG_REHEARSE_LIMIT", "60s"),
    )
