"""The bundle runs wherever it is laid, with nothing of the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support import nodes

from nodeworker.host import bundle

pytestmark = [pytest.mark.criu, pytest.mark.timeout(300)]

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith("__main__") and not module.name.startswith("migrations."):
            importlib.import_module(module.name)
for name, module in sys.modules.items():
    file = getattr(module, "__file__", None)
    assert file is None or file.startswith(sys.argv[1]), (name, file)
print(len(sys.modules))
"""


@pytest.fixture(scope="module")
def built() -> Path:
    return nodes.built()


@pytest.fixture(scope="module")
def control_plane() -> Path:
    """Where `make images` lays it, which finds its packages made."""
    tree = bundle.CACHE / "under-test-controlplane"
    bundle.build(tree, "controlplane")
    return tree


def import_all(tree: Path, *packages: str) -> int:
    done = subprocess.run(
        [tree / "bin/python3", "-I", "-c", IMPORT_ALL, tree, *packages],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_it_imports_every_module_of_a_node_and_none_of_the_hosts(built: Path, tmp_path: Path) -> None:
    moved = tmp_path / "somewhere else"
    shutil.copytree(built, moved, symlinks=True)
    assert import_all(moved, "woodfrog.protocol", "woodfrog.service", "nodeworker") > 300


def test_a_control_planes_imports_every_module_too_and_migrates_in_a_root_with_a_shell(
    control_plane: Path, tmp_path: Path
) -> None:
    assert import_all(control_plane, "woodfrog", "nodeworker", "controlplane", "migrations") > 600
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    shutil.copy2("/bin/busybox", tmp_path / "bin/sh")
    subprocess.run(["cp", "-al", control_plane, tmp_path / "woodfrog"], check=True, timeout=60)
    for command, said in (
        ("python3 -m controlplane migrate", "the database is migrated"),
        ("woodfrog get snapshots --help", "Usage:"),
        ("nats-server --version", "nats-server: v2."),
    ):
        done = subprocess.run(
            ["chroot", tmp_path, "/bin/sh", "-c", f"PATH=/woodfrog/bin; {command}"],
            env={**os.environ, "WOODFROG_DATABASE_URL": "sqlite+aiosqlite:////tmp/log.db"},
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert said in done.stdout + done.stderr
    assert (tmp_path / "tmp/log.db").exists()


def test_bytes_of_cuda_other_than_the_drivers_stay_behind_and_the_driver_is_there(built: Path) -> None:
    program = "from cuda.bindings import driver; print(driver.CUcheckpointGpuPair)"
    done = subprocess.run([built / "bin/python3", "-I", "-c", program], check=False, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert not list(built.glob("packages/cuda/bindings/**/*nvml*"))


def test_a_root_with_a_shell_and_nothing_else_is_enough(built: Path, tmp_path: Path) -> None:
    """No libc, no loader, no Python but its own: what a host of another kind offers."""
    (tmp_path / "bin").mkdir()
    shutil.copy2("/bin/busybox", tmp_path / "bin/sh")
    subprocess.run(["cp", "-a", built, tmp_path / "bundle"], check=True, timeout=60)
    for program, said in (("criu", "Version:"), ("woodfrog-node", "usage: woodfrog-node")):
        argument = "--version" if program == "criu" else "--help"
        done = subprocess.run(
            ["chroot", tmp_path, f"/bundle/bin/{program}", argument],
            check=False, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert said in done.stdout, done.stderr


def test_running_it_writes_nothing_into_it(built: Path) -> None:
    before = sorted(str(path) for path in built.rglob("*"))
    subprocess.run([built / "bin/woodfrog-node", "--help"], check=True, capture_output=True, timeout=30)
    assert sorted(str(path) for path in built.rglob("*")) == before


def test_its_python_starts_about_as_quickly_as_the_systems(built: Path) -> None:
    """A ratio, taken in turns, because the machine may be busy; measured on an idle one, it is 1.2."""
    seen: dict[str, list[float]] = {str(built / "bin/python3"): [], "/usr/bin/python3": []}
    for _ in range(20):
        for python, times in seen.items():
            began = time.perf_counter()
            subprocess.run([python, "-I", "-S", "-c", "pass"], check=True, timeout=20)
            times.append(time.perf_counter() - began)
    ours, theirs = (min(times) for times in seen.values())
    assert ours / theirs < 2.5


def test_the_same_contents_are_the_same_release_and_others_are_not(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built / "app", copy / "app", symlinks=True)
    release = bundle.digest(copy)
    assert bundle.digest(copy) == release
    (copy / "app/nodeworker/agent/app.py").write_text("")
    assert bundle.digest(copy) != release


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    assert bundle.main([str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
