"""What a bundle's config.json says about its container, and what it may not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodeworker import bundle
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)

SHM = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/5a4d/shm"
CONFIG: dict[str, Any] = {
    "root": {"path": "rootfs"},
    "annotations": {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-namespace": "research",
        "io.kubernetes.cri.sandbox-id": "5a4d",
        "io.kubernetes.cri.image-name": "registry/trainer:1",
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/shm", "type": "bind", "source": SHM, "options": ["rbind", "rw"]},
    ],
}


def written(folder: Path, config: Any) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_pods_container_tells_its_namespace_image_mounts_and_shared_memory(tmp_path: Path) -> None:
    read = bundle.read(written(tmp_path, CONFIG))
    assert read.namespace == "research"
    facts = msgspec.structs.replace(read.facts, privileges=None)
    assert facts == ContainerFacts(image="registry/trainer:1", mounts=("/dev/shm", "/proc"))
    assert read.shm_source == Path(SHM)
    assert read.rootfs == tmp_path / "rootfs"


USERS = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]


@pytest.mark.parametrize(
    ("namespace", "mappings", "joins"),
    [
        ([], (), False),
        ([{"type": "user"}], ("uid 0 100000 65536", "gid 0 100000 65536"), False),
        ([{"type": "user", "path": "/proc/7/ns/user"}], ("uid 0 100000 65536", "gid 0 100000 65536"), True),
    ],
    ids=["the node's", "its own", "its pod's"],
)
def test_a_containers_users_are_the_nodes_its_own_or_its_pods(
    tmp_path: Path, namespace: list[Any], mappings: tuple[str, ...], joins: bool
) -> None:
    linux = {"namespaces": namespace, "uidMappings": USERS, "gidMappings": USERS}
    read = bundle.read(written(tmp_path, CONFIG | {"linux": linux}))
    assert (read.facts.id_mappings, read.joins_user_namespace) == (mappings, joins)


@pytest.mark.parametrize("how", [{"uidMappings": USERS}, {"options": ["bind", "ridmap"]}], ids=["mappings", "option"])
def test_an_idmapped_mount_is_seen(tmp_path: Path, how: dict[str, Any]) -> None:
    mounts = [*CONFIG["mounts"], {"destination": "/data", "type": "bind", "source": "/data"} | how]
    assert bundle.read(written(tmp_path, CONFIG | {"mounts": mounts})).idmapped == ("/data",)


@pytest.mark.parametrize(("said", "read"), [({}, None), ("90", 90.0), ("0", 0.0), ("-1", None), ("soon", None)])
def test_the_kubelets_word_on_the_grace_period_is_believed_if_it_is_a_number(
    tmp_path: Path, said: Any, read: float | None
) -> None:
    annotations = {"io.kubernetes.pod.terminationGracePeriod": said} if said else {}
    assert bundle.read(written(tmp_path, CONFIG | {"annotations": annotations})).grace_seconds == read


def test_a_tmpfs_of_the_containers_own_is_no_shared_memory_from_outside(tmp_path: Path) -> None:
    mounts = [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}]
    assert bundle.read(written(tmp_path, CONFIG | {"mounts": mounts})).shm_source is None


def test_a_bare_bundle_names_neither_namespace_nor_image(tmp_path: Path) -> None:
    read = bundle.read(written(tmp_path, {"root": {"path": "/elsewhere"}}))
    facts = msgspec.structs.replace(read.facts, privileges=None)
    assert (read.namespace, facts, read.rootfs) == (None, ContainerFacts(), Path("/elsewhere"))


@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        {"root": 1},
        {"root": {"path": "r"}, "mounts": [{}]},
        # A number where a path belongs would be a descriptor of the worker's to os.stat.
        {"root": {"path": "r"}, "linux": {"namespaces": [{"type": "uts", "path": 1 << 31}]}},
        {"root": {"path": "r"}, "linux": {"namespaces": [{"type": "uts", "path": True}]}},
    ],
)
def test_a_config_that_is_none_is_refused_by_name(tmp_path: Path, config: Any) -> None:
    with pytest.raises(FailureError, match="bundle-unreadable"):
        bundle.read(written(tmp_path, config))


def test_a_missing_bundle_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="bundle-unreadable"):
        bundle.read(str(tmp_path / "nowhere"))


UID = "0b7c"
VOLUMES = f"/mnt/k/pods/{UID}/volumes"


def mounts(*pairs: tuple[str, str]) -> dict[str, Any]:
    return CONFIG | {
        "annotations": CONFIG["annotations"] | {"io.kubernetes.cri.sandbox-uid": UID},
        "mounts": [
            {"destination": inside, "type": "bind", "source": out, "options": ["rbind"]} for inside, out in pairs
        ],
    }


def test_empty_dirs_are_known_by_where_the_kubelet_keeps_them_and_each_counts_once(tmp_path: Path) -> None:
    config = mounts(
        ("/work", f"{VOLUMES}/kubernetes.io~empty-dir/work"),
        ("/again", f"{VOLUMES}/kubernetes.io~empty-dir/work"),
        ("/claim", f"{VOLUMES}/kubernetes.io~csi/pvc-1/mount"),
        ("/cfg", f"{VOLUMES}/kubernetes.io~configmap/cfg"),
        ("/token", f"{VOLUMES}/kubernetes.io~projected/kube-api-access-x"),
        ("/host", "/data"),
        ("/below", f"{VOLUMES}/kubernetes.io~empty-dir/work/below"),
    )
    read = bundle.read(written(tmp_path, config))
    assert [(volume.key, str(volume.source)) for volume in read.volumes] == [
        ("work", f"{VOLUMES}/kubernetes.io~empty-dir/work")
    ]


def test_another_pods_empty_dir_is_a_host_path_like_any_other(tmp_path: Path) -> None:
    theirs = "/mnt/k/pods/other/volumes/kubernetes.io~empty-dir/work"
    assert bundle.read(written(tmp_path, mounts(("/work", theirs)))).volumes == ()


def test_a_part_of_an_empty_dir_is_known_by_its_place_and_a_part_of_another_volume_is_not(tmp_path: Path) -> None:
    pod = tmp_path / "pods" / UID
    (pod / "volumes" / "kubernetes.io~empty-dir" / "work").mkdir(parents=True)
    (pod / "volume-subpaths" / "work" / "main" / "0").mkdir(parents=True)
    config = mounts(("/part", f"{pod}/volume-subpaths/work/main/0"), ("/claim", f"{pod}/volume-subpaths/pvc-1/main/1"))
    read = bundle.read(written(tmp_path, config))
    assert [(volume.key, volume.name) for volume in read.volumes] == [("/part", "work")]
    assert list(read.travelling) == ["/part"]


def test_what_annotations_leave_behind_does_not_travel(tmp_path: Path) -> None:
    for name in ("work", "cache"):
        (tmp_path / "pods" / UID / "volumes" / "kubernetes.io~empty-dir" / name).mkdir(parents=True)
    place = tmp_path / "pods" / UID / "volumes" / "kubernetes.io~empty-dir"
    config = mounts(("/work", f"{place}/work"), ("/cache", f"{place}/cache"), ("/dev/shm", SHM))
    config["annotations"] |= {"woodfrog.io/volumes": "work", "woodfrog.io/shm": "off"}
    read = bundle.read(written(tmp_path, config))
    assert list(read.travelling) == ["work"]
    assert read.travelling_shm is None


def test_an_annotation_that_cannot_be_meant_is_refused_by_name(tmp_path: Path) -> None:
    config = CONFIG | {"annotations": {"woodfrog.io/on-stop": "perhaps"}}
    with pytest.raises(FailureError, match="invalid-annotation") as caught:
        bundle.read(written(tmp_path, config))
    assert "woodfrog.io/on-stop" in caught.value.failure.cause


@pytest.mark.parametrize(
    "source",
    ["/var/lib/docker/volumes/{}/_data", "/s/volumes/{}/_data", "/v/io.containerd.grpc.v1.cri/containers/c/volumes/{}"],
)
def test_an_anonymous_volume_travels_and_is_known_by_its_place(tmp_path: Path, source: str) -> None:
    place = tmp_path / source.format("5f" * 32).lstrip("/")
    place.mkdir(parents=True)
    named = tmp_path / "var/lib/docker/volumes/data/_data"
    named.mkdir(parents=True)
    config = mounts(("/data/", str(place)), ("/named", str(named)), ("/below", f"{place}/below"))
    read = bundle.read(written(tmp_path, config))
    assert [(volume.key, volume.name) for volume in read.volumes] == [("/data", "/data")]
    assert read.travelling == {"/data": place}
    config["annotations"] |= {"woodfrog.io/volumes": "/other"}
    assert bundle.read(written(tmp_path, config)).travelling == {}


def test_without_pods_the_environment_spells_annotations_and_an_annotation_counts_for_more(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "root": {"path": "r"},
        "process": {"env": ["WOODFROG_INTERVAL=30s", "WOODFROG_ON_STOP=ignore", "WOODFROG_SHM=off", "WOODFROG_URL=x"]},
        "annotations": {"woodfrog.io/shm": "on"},
    }
    wishes = bundle.read(written(tmp_path, config)).options
    assert (wishes.interval_seconds, wishes.dump_on_stop, wishes.shm) == (30.0, False, True)
    config["annotations"] |= CONFIG["annotations"]
    assert bundle.read(written(tmp_path, config)).options.interval_seconds is None


def test_a_variable_that_cannot_be_meant_is_refused_by_name(tmp_path: Path) -> None:
    config = {"root": {"path": "r"}, "process": {"env": ["WOODFROG_INTERVAL=soon"]}}
    with pytest.raises(FailureError, match="invalid-annotation"):
        bundle.read(written(tmp_path, config))
