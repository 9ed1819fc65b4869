"""Set-up on a machine where it cannot work: a clear word, and nothing half-done."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = "sh cat rm mv dirname sha256sum printf python3 runc containerd ctr ip iptables tar zstd git nsenter hostname ps true"
TOOLS += " dockerd docker podman chmod"
ON_SOME_RELEASES = ("docker-compose", "nft")


class Machine:
    """A machine as set-up sees it: programs of its own on PATH, and its own /etc/os-release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.release = folder / "os-release"
        self.release.write_text(Path("/etc/os-release").read_text())
        for tool in (*TOOLS.split(), *ON_SOME_RELEASES):
            place = shutil.which(tool, path=SYSTEM)
            assert place or tool in ON_SOME_RELEASES, tool
            if place:
                self.program(tool, f'exec {place} "$@"')
        self.program("uname", "case $1 in -s) echo Linux;; -m) echo x86_64;; -r) echo 6.1.0-9-amd64;; esac")
        self.program("id", "echo 0")
        self.program("apt-get", f"echo \"$@\" >>{folder}/apt; echo 'no network' >&2; exit 100")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def set_up(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run setup/machine.sh in a mount namespace of its own."""
        script = (
            f'mount --bind {self.release} $(readlink -f /etc/os-release) && PATH={self.bin} exec {self.bin}/sh "$@"'
        )
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", ROOT / "setup/machine.sh", *words],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def refusal(self) -> str:
        done = self.set_up()
        assert done.returncode == 1
        assert done.stderr.startswith("setup: ")
        return done.stderr

    @property
    def asked_debian(self) -> bool:
        return (self.folder / "apt").exists()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("words", [[], ["engines"]])
def test_a_machine_that_has_everything_is_left_alone(machine: Machine, words: list[str]) -> None:
    done = machine.set_up(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert not machine.asked_debian


def test_docker_and_podman_are_installed_for_tests_only(machine: Machine) -> None:
    for tool in ("dockerd", "podman"):
        (machine.bin / tool).unlink()
    assert machine.set_up().returncode == 0
    assert not machine.asked_debian
    said = machine.set_up("engines").stderr
    assert said.startswith("setup: installing docker.io")
    assert "podman" in said


def test_who_is_not_root_is_told_so_before_anything_is_done(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    (machine.bin / "runc").unlink()
    assert "run this as root" in machine.refusal()
    assert not machine.asked_debian


@pytest.mark.parametrize(
    ("system", "named"),
    [
        ('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"', "Ubuntu 24.04"),
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"', "Debian 11"),
        ("NAME=nothing", "an unknown system"),
    ],
)
def test_another_system_is_refused_by_name(machine: Machine, system: str, named: str) -> None:
    machine.release.write_text(f"{system}\n")
    said = machine.refusal()
    assert named in said
    assert "Debian 12, 13 and testing" in said
    assert not machine.asked_debian


@pytest.mark.parametrize("kernel", ["5.10.0-28-amd64", "4.19.0", "5.9"])
def test_a_kernel_that_is_too_old_is_refused_by_name(machine: Machine, kernel: str) -> None:
    machine.program("uname", f"case $1 in -s) echo Linux;; -m) echo x86_64;; -r) echo {kernel};; esac")
    assert f"kernel {kernel} is too old" in machine.refusal()


@pytest.mark.parametrize("kernel", ["5.11.0", "6.1.0-9-amd64", "10.0", "6.18+"])
def test_a_kernel_that_is_new_enough_is_taken(machine: Machine, kernel: str) -> None:
    machine.program("uname", f"case $1 in -s) echo Linux;; -m) echo x86_64;; -r) echo {kernel};; esac")
    assert machine.set_up().returncode == 0


def test_another_architecture_is_refused_by_name(machine: Machine) -> None:
    machine.program("uname", "case $1 in -s) echo Linux;; -m) echo riscv64;; -r) echo 6.1.0;; esac")
    assert "this machine is riscv64" in machine.refusal()


def test_packages_that_cannot_be_fetched_are_named_with_what_to_look_at(machine: Machine) -> None:
    (machine.bin / "runc").unlink()
    said = machine.refusal()
    assert "installing runc" in said
    assert "is there a network" in said
    assert "no network" in said


def test_an_environment_that_cannot_be_made_leaves_the_one_before(tmp_path: Path) -> None:
    for folder in ("setup", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "before").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    done = subprocess.run(
        [tmp_path / "setup/venv.sh"],
        check=False, capture_output=True, text=True, timeout=100, env=environment,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is there a network?" in done.stderr
    assert (tmp_path / ".venv" / "before").exists()
    assert not (tmp_path / ".venv.old").exists()
