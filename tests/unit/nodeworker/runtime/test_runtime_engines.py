"""What is read of Docker's and Podman's own records: the image, and which signals end a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodeworker import bundle
from nodeworker.runtime import container, engines, stop_signal

pytestmark = pytest.mark.timeout(5)

ID, OTHER = "a1" * 32, "b2" * 32
IMAGE = "c3" * 32
TERM, INT, QUIT, KILL, USR1 = 15, 2, 3, 9, 10


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def docker(folder: Path, config: dict[str, Any] | None = None, owner: str = ID, **spec: Any) -> Path:
    """Lay out what dockerd and its containerd write of a container; return the bundle."""
    record = {"Image": f"sha256:{IMAGE}", "Config": {"Image": "app:1", **(config or {})}}
    write(folder / "root/containers" / ID / "config.v2.json", record)
    write(folder / "root/containers" / OTHER / "config.v2.json", {"Image": "sha256:other", "Config": {"Image": "no"}})
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": f"{folder}/root/containers/{owner}/hosts"},
    ]
    write(folder / "moby" / ID / "config.json", {"root": {"path": "r"}, "mounts": mounts, **spec})
    return folder / "moby" / ID


def podman(folder: Path, name: str = "containers.json", storage: str = "root") -> Path:
    known = [
        {"id": OTHER, "image": "d4" * 32},
        {"id": ID, "image": IMAGE, "metadata": json.dumps({"image-name": "localhost/app:1"})},
    ]
    write(folder / storage / "overlay-containers" / name, known)
    mount = {
        "destination": "/etc/hosts",
        "type": "bind",
        "source": f"{folder}/run/overlay-containers/{ID}/userdata/hosts",
    }
    userdata = folder / "root/overlay-containers" / ID / "userdata"
    write(userdata / "config.json", {"root": {"path": "r"}, "mounts": [mount]})
    return userdata


def test_the_image_of_a_container_of_docker_is_in_dockers_record(tmp_path: Path) -> None:
    facts = bundle.read(str(docker(tmp_path))).facts
    assert (facts.image, facts.image_digest) == ("app:1", f"sha256:{IMAGE}")


def test_a_container_in_the_network_of_another_is_not_taken_for_that_one(tmp_path: Path) -> None:
    assert bundle.read(str(docker(tmp_path, owner=OTHER))).facts.image == "app:1"


@pytest.mark.parametrize(("name", "storage"), [("containers.json", "root"), ("volatile-containers.json", "run")])
def test_the_image_of_a_container_of_podman_is_in_its_storage(tmp_path: Path, name: str, storage: str) -> None:
    facts = bundle.read(str(podman(tmp_path, name, storage))).facts
    assert (facts.image, facts.image_digest) == ("localhost/app:1", f"sha256:{IMAGE}")


@pytest.mark.parametrize("broken", ["", "[", "[]", "{}", '[{"id": 1}]', f'[{{"id": "{ID}"}}]', "null", "[null]"])
def test_records_that_are_not_as_expected_leave_the_image_unknown(tmp_path: Path, broken: str) -> None:
    places = [docker(tmp_path / "d"), podman(tmp_path / "p")]
    (tmp_path / "d/root/containers" / ID / "config.v2.json").write_text(broken)
    (tmp_path / "p/root/overlay-containers/containers.json").write_text(broken)
    for place in places:
        facts = bundle.read(str(place)).facts
        assert (facts.image, facts.image_digest) == (None, None)
        assert stop_signal.is_meant(QUIT, str(place), ID)


@pytest.mark.parametrize("spec", [{}, {"mounts": None}, {"mounts": ["x"]}, {"mounts": [{"source": "/etc/hosts"}]}])
def test_a_bundle_of_another_engine_has_no_record(spec: dict[str, Any]) -> None:
    assert engines.image(spec, "/run/x/y") == ("", "")
    assert engines.docker_record(spec, ID) == {}


@pytest.mark.parametrize(
    ("config", "spec", "stops"),
    [
        ({}, {}, {TERM, INT}),
        ({"StopSignal": "SIGQUIT"}, {}, {TERM, INT, QUIT}),
        ({"StopSignal": "10"}, {}, {TERM, INT, USR1}),
        ({}, {"annotations": {"org.opencontainers.image.stopSignal": "15"}}, {TERM}),
        ({}, {"annotations": {"org.opencontainers.image.stopSignal": "SIGUSR1"}}, {TERM, USR1}),
        ({}, {"annotations": {"io.kubernetes.cri.container-type": "container"}}, {TERM, INT, QUIT, USR1}),
        ({}, {"mounts": []}, {TERM, INT, QUIT}),
    ],
)
def test_the_signals_that_end_a_container_are_those_that_the_engine_names(
    tmp_path: Path, config: dict[str, Any], spec: dict[str, Any], stops: set[int]
) -> None:
    place = docker(tmp_path, config, **spec)
    assert {each for each in (0, TERM, INT, QUIT, KILL, USR1) if stop_signal.is_meant(each, str(place), ID)} == stops


def test_without_a_bundle_the_stop_signal_is_sigterm(tmp_path: Path) -> None:
    assert [each for each in (TERM, INT, QUIT, KILL) if stop_signal.is_meant(each, str(tmp_path), ID)] == [TERM]


def test_bind_mounts_name_what_their_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("again")
    (tmp_path / "again").symlink_to("file")
    (tmp_path / "through").symlink_to("folder")
    sources = [
        ("bind", [], f"{tmp_path}/link"),
        ("none", ["rbind", "ro"], f"{tmp_path}/through"),
        ("", ["bind"], "link"),
        ("bind", [], f"{tmp_path}/through/inner"),
        ("bind", [], f"{tmp_path}/gone"),
        ("tmpfs", [], "link"),
        ("bind", [], None),
    ]
    mounts = [{"destination": f"/{n}", "type": t, "options": o, "source": s} for n, (t, o, s) in enumerate(sources)]
    path = write(tmp_path / "config.json", {"mounts": mounts})
    container.adapt(str(tmp_path), "/criu.conf")
    found = json.loads(path.read_text())
    assert found["annotations"] == {"org.criu.config": "/criu.conf"}
    assert [mount["source"] for mount in found["mounts"]] == [
        f"{tmp_path}/file",
        f"{tmp_path}/folder",
        f"{tmp_path}/file",
        f"{tmp_path}/through/inner",
        f"{tmp_path}/gone",
        "link",
        None,
    ]
