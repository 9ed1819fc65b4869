"""Which of the pod's settings have to be told anew when the worker has left the pod."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodeworker.host.namespaces import Named, named_files, volume_of

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A projected volume as the kubelet writes one, reached over a link as /var/run is."""
    folder = tmp_path / "run/secrets/nats"
    (folder / "..2026_11_25").mkdir(parents=True)
    (folder / "..2026_11_25/token").write_text("secret")
    (folder / "..data").symlink_to("..2026_11_25")
    (folder / "token").symlink_to("..data/token")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("../run")
    return folder


def test_a_token_is_found_on_its_volume_and_the_links_that_renew_it_are_left_to_be_followed(volume: Path) -> None:
    token = str(volume.parents[2] / "var/run/secrets/nats/token")
    assert volume_of(token, [str(volume), "/"]) == (str(volume), "token")
    assert list(named_files({"WOODFROG_NATS_TOKEN_FILE": token}, [str(volume)])) == [
        Named("WOODFROG_NATS_TOKEN_FILE", "", str(volume), "token")
    ]


def test_a_store_in_a_directory_of_the_pod_is_one_also_by_the_pods_root(volume: Path) -> None:
    for url in (f"file://{volume}", f"file:///proc/{os.getpid()}/root{volume}"):
        found = list(named_files({"WOODFROG_STORE_URL": url}, [str(volume)]))
        assert found == [Named("WOODFROG_STORE_URL", "file://", str(volume), "")]


@pytest.mark.parametrize("value", ["{host}/state", "{host}", "s3://bucket/prefix", "on", "", "nats://nats:4222"])
def test_what_names_no_file_on_a_volume_is_passed_on_as_it_is(volume: Path, value: str) -> None:
    host = volume.parents[2] / "host"
    host.mkdir()
    (host / "state").write_text("")
    assert list(named_files({"ANY": value.format(host=host)}, [str(volume)])) == []
    assert list(named_files({"WOODFROG_STATE_DIR": str(volume)}, [str(volume)])) == []
