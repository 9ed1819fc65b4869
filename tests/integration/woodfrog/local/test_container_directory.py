"""The directory of a container in the foreground: whose it is, and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from woodfrog.local.overlay import ContainerDirectory, orphans
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.root


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    folder = tmp_path / "lower"
    folder.mkdir()
    (folder / "kept").write_text("below\n")
    return folder


@pytest.fixture
def containers(tmp_path: Path) -> Path:
    return tmp_path / "containers"


def mounts_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {folder}/" in line]


def test_what_the_container_writes_never_reaches_the_directory_below(containers: Path, lower: Path) -> None:
    with ContainerDirectory.create(containers / "c1", lower) as directory:
        (directory.root / "kept").write_text("changed\n")
        (directory.root / "new").touch()
    assert (lower / "kept").read_text() == "below\n"
    assert not (lower / "new").exists()


def test_nothing_is_left_of_a_directory_that_was_removed_twice(containers: Path, lower: Path) -> None:
    directory = ContainerDirectory.create(containers / "c1", lower)
    directory.remove()
    directory.remove()
    assert list(containers.iterdir()) == []
    assert mounts_below(containers) == []


def test_a_layer_may_lie_below_the_root_that_it_covers(containers: Path) -> None:
    with ContainerDirectory.create(containers / "c1", Path("/")) as directory:
        assert (directory.root / "etc/debian_version").exists()


def test_a_root_that_no_overlay_can_cover_is_refused_and_leaves_nothing(containers: Path) -> None:
    with pytest.raises(FailureError, match="overlay-failed"):
        ContainerDirectory.create(containers / "c1", Path("/proc/self/fd"))
    assert list(containers.iterdir()) == []
    assert mounts_below(containers) == []


def test_the_directory_of_a_living_owner_is_no_orphan(containers: Path, lower: Path) -> None:
    assert orphans(containers) == []
    with ContainerDirectory.create(containers / "c1", lower):
        assert orphans(containers) == []


def test_the_directory_of_a_killed_owner_is_found_once_and_can_be_removed(containers: Path, lower: Path) -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import sys, time; from pathlib import Path; from woodfrog.local.overlay import ContainerDirectory\n"
                "held = ContainerDirectory.create(Path(sys.argv[1]), Path(sys.argv[2])); print('made', flush=True)\n"
                "time.sleep(60)"
            ),
            str(containers / "c1"),
            str(lower),
        ],
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"made\n"
        assert orphans(containers) == []
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait(10)
    (found,) = orphans(containers)
    assert orphans(containers) == []
    found.remove()
    assert list(containers.iterdir()) == []
    assert mounts_below(containers) == []


def test_a_directory_that_vanishes_while_one_looks_is_no_orphan(containers: Path) -> None:
    gone = ContainerDirectory(containers / "gone")
    assert not gone.lock()


def test_a_directory_is_never_seen_without_its_lock(containers: Path, lower: Path) -> None:
    made, rename = [], Path.rename

    def look(self: Path, target: Path) -> Path:
        made.append(orphans(containers))
        result = rename(self, target)
        made.append(orphans(containers))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", look)
        ContainerDirectory.create(containers / "c1", lower).remove()
    assert made == [[], []]
