"""What a live bundle says about its container: the only place from which mounts, images and names are ever taken.

A snapshot is hostile input and may not say where anything goes; the bundle's config.json was written by the container
engine for exactly this start. Sources: the OCI runtime specification (config.md), and for pods what their engine says of
them (:mod:`nodeworker.domain.pod_annotations`). Which mounts are emptyDirs is known by where the kubelet keeps
them (pkg/volume/emptydir, and GetPodVolumeSubpathsDir in pkg/kubelet/kubelet_getters.go), under whatever root it has. Which are
anonymous volumes is known by their names, 64 hex digits: of Docker (volume/service, stringid.GenerateRandomID), of Podman
(libpod, stringid.GenerateRandomID), and of containerd for the VOLUMEs of an image (pkg/cri/server, volumeMounts).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodeworker.capture import filesystem, network, privileges
from nodeworker.capture.container_paths import resolved
from nodeworker.domain import changed_environment as environments
from nodeworker.domain import checkpoint_options, pod_annotations, spec_privileges
from nodeworker.domain import mounts as mounted
from nodeworker.domain.cgroup_path import absolute_path
from nodeworker.domain.checkpoint_options import CheckpointOptions, InvalidWishError
from nodeworker.domain.dump_scheduling import GRACE_PERIOD
from nodeworker.domain.gpu import GpuRequest, wish
from nodeworker.domain.pod_annotations import PLAIN_IMAGE, CriContainer
from nodeworker.runtime import container, engines
from woodfrog.protocol import wire
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.manifest import CONFIG_DATA

_KUBERNETES_LABELS = ("io.kubernetes.docker.type", "io.kubernetes.pod.namespace")
"""With which cri-dockerd marks Docker's containers (core/docker_service.go, and the kubelet's labels)."""
_EMPTY_DIR = re.compile(
    r"(?P<pod>/(?:.+/)?pods/(?P<uid>[^/]+))/"
    r"(?:volumes/kubernetes\.io~empty-dir/(?P<whole>[^/]+)|volume-subpaths/(?P<part>[^/]+)/[^/]+/\d+)"
)
_ANONYMOUS = re.compile(r"/.+/volumes/[0-9a-f]{64}/_data|/.+/containers/[^/]+/volumes/[0-9a-f]{64}")

_LONGEST_COMPLAINT = 400


class Volume(msgspec.Struct, frozen=True):
    """An emptyDir of the pod, the part of one that is mounted by ``subPath``, or an anonymous volume, as one container sees it."""

    key: str
    """What it is called in snapshots: the volume's name, or where it is mounted if it has none or is a part of one."""
    name: str
    """By which its owner calls it: of an anonymous volume where it is mounted."""
    source: Path
    """The directory outside."""
    read_only: bool = False
    """Whether the container may only read there: then it neither travels nor is anything put there."""


class Bundle(msgspec.Struct, frozen=True):
    """What matters here of one config.json. ``namespace`` is None for a container that belongs to no pod."""

    rootfs: Path
    namespace: str | None
    facts: ContainerFacts
    shm_source: Path | None
    """The directory outside that is mounted at /dev/shm, if it is the engine's own for this pod and may be written to.

    None if the container has a tmpfs of its own there, one of the pod's volumes, or anything else."""
    names: dict[str, str] = {}
    """``hostname`` and ``domainname``, as far as the container gets its own."""
    uts_namespace: Path | None = None
    """The UTS namespace that it joins, as the containers of a pod do; its names are in force."""
    network: Path | None = None
    """The network namespace that it joins, the node's own among them; None for one that is made with it."""
    has_hooks: bool = False
    """Whether programs of the engine run while it is made, as those of Docker's that give it its network."""
    joins_user_namespace: bool = False
    """Whether it is in a user namespace that somebody else made: that of its pod."""
    idmapped: tuple[str, ...] = ()
    """Where mounts are whose files belong to other users than outside."""
    volumes: tuple[Volume, ...] = ()
    """The emptyDirs and anonymous volumes among the mounts, each once."""
    binds: dict[str, Path] = {}
    """Every bind mount: where it is, and what is mounted there."""
    options: CheckpointOptions = CheckpointOptions()
    sandbox: str = ""
    """The engine's id of the pod's sandbox."""
    cgroups_path: str = ""
    """``linux.cgroupsPath``."""
    cgroup_mounts: tuple[str, ...] = ()
    """Where mounts of type ``cgroup`` are."""
    grace_seconds: float | None = None
    """How long the pod's containers have after their stop signal, as its spec says; None where nobody tells."""
    gpu: GpuRequest = GpuRequest()
    environment: dict[str, str] = {}
    """The variables that its first process gets."""
    command: tuple[str, ...] = ()
    """What its first process runs."""
    devices: tuple[dict[str, Any], ...] = ()
    """``linux.devices``: the nodes that the engine, or CDI, gives the container."""
    lsm_profile: str = ""
    """The AppArmor profile or SELinux label, as ``runc restore --lsm-profile`` wants it."""
    seccomp: dict[str, Any] | None = None
    """``linux.seccomp``."""

    @property
    def declared(self) -> dict[str, str]:
        """What a restored process has from its snapshot and not from this container: its variables and its command."""
        return environments.declared(self.environment, self.command)

    @property
    def bound(self) -> frozenset[str]:
        """Where something from outside is mounted, once links are followed."""
        return frozenset(resolved(self.rootfs, place) for place in self.binds)

    @property
    def travelling(self) -> dict[str, Path]:
        """The directories of the volumes that are wanted in snapshots, by their keys.

        A single file is never one, and neither are huge pages.
        """
        return {
            volume.key: volume.source
            for volume in self.volumes
            if self.options.takes_volume(volume.name)
            and not volume.read_only
            and volume.source.is_dir()
            and not filesystem.is_huge_pages(volume.source)
        }

    @property
    def configs(self) -> dict[str, Path]:
        """Where ConfigMaps, Secrets and tokens are mounted, with their directories: those in which the kubelet keeps a link."""
        return {
            place: source
            for place, source in self.binds.items()
            if mounted.is_config(str(source), self.facts.pod_uid) and (source / CONFIG_DATA).is_symlink()
        }

    @property
    def outside(self) -> dict[str, Path]:
        """The bind mounts whose files neither travel nor come with each new pod, by where they are once links are followed."""
        brought = {*self.travelling.values(), *self.configs.values(), self.travelling_shm}
        return {
            resolved(self.rootfs, place): source
            for place, source in self.binds.items()
            if source not in brought
            and not mounted.is_config(str(source), self.facts.pod_uid)
            and not (mounted.is_given(place, str(source), self.facts.pod_uid) and not source.is_dir())
        }

    @property
    def v2_cgroup(self) -> str:
        """Where the runtime makes the container's cgroup on a node with cgroup v2.

        Raises:
            FailureError: ``cgroup-unknown``: no restore could be put there, so the container should not start either.
        """
        try:
            return absolute_path(self.cgroups_path)
        except ValueError as problem:
            advice = "Let the container engine name it absolutely, or as SLICE:PREFIX:NAME with the systemd driver."
            raise FailureError(Failure("cgroup-unknown", str(problem), advice)) from problem

    @property
    def travelling_shm(self) -> Path | None:
        """The directory of /dev/shm if it is wanted in snapshots; whatever is no tmpfs is not the engine's."""
        source = self.shm_source
        own = source is not None and source.is_dir() and filesystem.is_tmpfs(source)
        return source if own and self.options.shm else None

    @property
    def shm_is_a_volume(self) -> bool:
        """Whether one of the pod's volumes is mounted at /dev/shm: it travels as that volume."""
        source = self.binds.get(mounted.SHM)
        return source is not None and any(volume.source == source for volume in self.volumes)


def read(folder: str) -> Bundle:
    """Read ``folder``/config.json.

    Raises:
        FailureError: ``bundle-unreadable``, if it is missing or is not what the specification says; ``invalid-annotation``;
            ``namespace-unknown`` for a pod's container whose engine does not name its namespace.
    """
    path = Path(folder)
    try:
        config: dict[str, Any] = _config(path)
        annotations: dict[str, str] = config.get("annotations") or {}
        mounts: list[dict[str, Any]] = config.get("mounts") or []
        container_id = _container_id(path)
        cri = pod_annotations.read(annotations, container_id)
        namespace = _namespace(cri, config, container_id)
        environment = container.environment(config)
        wished = checkpoint_options.read(
            {**checkpoint_options.from_environment(environment if cri is None else {}), **annotations}
        )
        image, digest = (cri.image, None) if cri is not None else _image(config, annotations, folder)
        pod_uid = None if cri is None else cri.uid
        namespaces = {one.get("type"): one for one in (config.get("linux") or {}).get("namespaces") or []}
        uts, user = namespaces.get("uts"), namespaces.get("user")
        return Bundle(
            rootfs=path / config["root"]["path"],
            namespace=namespace,
            facts=ContainerFacts(
                image=image,
                image_digest=digest,
                mounts=tuple(sorted(mount["destination"] for mount in mounts)),
                fresh=wished.fresh,
                interval_seconds=wished.interval_seconds,
                pod=None if cri is None else cri.name,
                pod_uid=pod_uid,
                id_mappings=_id_mappings(config) if user is not None else (),
                privileges=spec_privileges.allowed(config, privileges.is_hosts),
            ),
            shm_source=_shm(mounts, (cri.sandbox if cri is not None else None) or ""),
            names=_names(config) if uts is not None else {},
            uts_namespace=Path(uts["path"]) if uts is not None and uts.get("path") else None,
            network=_network(namespaces.get("network")),
            has_hooks=bool(
                {"prestart", "createRuntime"} & {name for name, each in (config.get("hooks") or {}).items() if each}
            ),
            joins_user_namespace=user is not None and bool(user.get("path")),
            idmapped=tuple(mount["destination"] for mount in mounts if _is_idmapped(mount)),
            volumes=tuple(_volumes(mounts, pod_uid)),
            binds={
                mount["destination"].rstrip("/"): path / mount["source"] for mount in mounts if mounted.is_bind(mount)
            },
            options=wished,
            sandbox=(cri.sandbox if cri is not None else None) or "",
            cgroups_path=str((config.get("linux") or {}).get("cgroupsPath") or ""),
            cgroup_mounts=tuple(mount["destination"] for mount in mounts if mount.get("type") == "cgroup"),
            grace_seconds=_grace_seconds(annotations),
            gpu=wish(config),
            environment=environment,
            command=tuple(str(word) for word in (config.get("process") or {}).get("args") or ()),
            devices=tuple((config.get("linux") or {}).get("devices") or ()),
            lsm_profile=spec_privileges.lsm_profile(config),
            seccomp=(config.get("linux") or {}).get("seccomp"),
        )
    except InvalidWishError as problem:
        raise FailureError(
            Failure(
                "invalid-annotation",
                str(problem),
                "Correct it where the container is declared and create it again.",
            )
        ) from problem
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise FailureError(
            Failure(
                "bundle-unreadable",
                f"{folder}/config.json cannot be read: {_complaint(problem)}",
                "The container engine writes it before each create; look at its log.",
            )
        ) from problem


def _network(namespace: dict[str, Any] | None) -> Path | None:
    if namespace is None:
        return network.HOST
    return Path(namespace["path"]) if namespace.get("path") else None


def variable(folder: str, name: str) -> str | None:
    """Read a variable of the container's environment as the runtime does, so that both see the same id.

    Raises:
        FailureError: ``bundle-unreadable``.
    """
    try:
        return container.variable(_config(Path(folder)), name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise FailureError(
            Failure("bundle-unreadable", f"{folder}/config.json: {_complaint(problem)}", "")
        ) from problem


def _config(folder: Path) -> dict[str, Any]:
    """Read a config.json strictly: what Go would not read, or other text, must mean nothing to anybody here."""
    config: dict[str, Any] = wire.decode((folder / "config.json").read_bytes(), dict[str, Any])
    return config


def _complaint(problem: Exception) -> str:
    """Say what is wrong with a file without quoting it: it may hold secrets."""
    return f"{type(problem).__name__}: {problem}"[:_LONGEST_COMPLAINT]


def _container_id(bundle: Path) -> str:
    """Both engines call a bundle's directory by the container's id; CRI-O and Podman keep it in a part of that."""
    return bundle.parent.name if bundle.name == "userdata" else bundle.name


def _namespace(cri: CriContainer | None, config: dict[str, Any], container_id: str) -> str | None:
    """Return the namespace of the container's pod, or None if it belongs to none.

    Raises:
        FailureError: ``namespace-unknown``. Every pod of a node would otherwise share one namespace, and its snapshots.
    """
    if cri is not None and cri.namespace is not None:
        return cri.namespace
    engine = "the container engine" if cri is not None else "Docker, behind cri-dockerd,"
    if cri is None:
        labels = container.part(container.part(engines.docker_record(config, container_id), "Config"), "Labels")
        if not any(name in labels for name in _KUBERNETES_LABELS):
            return None
    raise FailureError(
        Failure(
            "namespace-unknown",
            f"{engine} does not say to which namespace the pod of container {container_id} belongs",
            "Use containerd 1.5 or newer, or CRI-O.",
        )
    )


def _image(config: dict[str, Any], annotations: dict[str, str], folder: str) -> tuple[str | None, str | None]:
    """Return the image's name, and its id where the engine has written it down."""
    name, digest = engines.image(config, folder)
    return annotations.get(PLAIN_IMAGE) or name or None, digest or None


def _grace_seconds(annotations: dict[str, str]) -> float | None:
    text = annotations.get(GRACE_PERIOD, "")
    return float(text) if text.isascii() and text.isdigit() else None


def _names(config: dict[str, Any]) -> dict[str, str]:
    given = {name: config.get(name) for name in ("hostname", "domainname")}
    return {name: value for name, value in given.items() if isinstance(value, str) and value}


def _id_mappings(config: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{kind} {one['containerID']} {one['hostID']} {one['size']}"
        for kind in ("uid", "gid")
        for one in config["linux"].get(f"{kind}Mappings") or ()
    )


def _shm(mounts: list[dict[str, Any]], sandbox: str) -> Path | None:
    for mount in mounts:
        source = str(mount.get("source", ""))
        if mount["destination"].rstrip("/") == mounted.SHM:
            own = mounted.is_bind(mount) and mounted.is_engines_shm(source, sandbox)
            return Path(source) if own and not mounted.is_read_only(mount) else None
    return None


def _is_idmapped(mount: Mapping[str, Any]) -> bool:
    return bool(mount.get("uidMappings")) or not {"idmap", "ridmap"}.isdisjoint(mount.get("options") or ())


def volume_name(source: str, pod_uid: str | None) -> str | None:
    """Tell the name of the emptyDir that a mount's source is, or is a part of; None if it is none of this pod."""
    found = _EMPTY_DIR.fullmatch(source)
    if found is None or (pod_uid and found["uid"] != pod_uid):
        return None
    if found["whole"]:
        return found["whole"]
    # A part of any kind of volume is mounted from such a path; the kubelet keeps a directory for each emptyDir.
    whole = Path(found["pod"], "volumes", "kubernetes.io~empty-dir", found["part"])
    return found["part"] if whole.is_dir() else None


def _volumes(mounts: list[dict[str, Any]], pod_uid: str | None) -> Iterator[Volume]:
    """Yield each volume once: of one that is mounted in several places, a writable one counts."""
    found: dict[str, Volume] = {}
    for mount in mounts:
        source, place = str(mount.get("source", "")), mount["destination"].rstrip("/")
        if not mounted.is_bind(mount):
            continue
        name = place if _ANONYMOUS.fullmatch(source) else volume_name(source, pod_uid)
        if name is not None:
            key = place if "/volume-subpaths/" in source else name
            if key not in found or found[key].read_only:
                found[key] = Volume(key, name, Path(source), mounted.is_read_only(mount))
    yield from found.values()
