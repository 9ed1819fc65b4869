"""What containerd itself makes of the configurations that installing writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nodeworker.domain import containerd_config as text
from nodeworker.host import containerd
from nodeworker.host.containerd import Containerd
from woodfrog.protocol.failures import FailureError

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(60)]

CONTAINERD = shutil.which("containerd") or "/usr/bin/containerd"
BINARY = "/opt/woodfrog/bin/woodfrog-runtime"
RUNC = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true
"""
RUNC_OF_2 = RUNC.replace('"io.containerd.grpc.v1.cri"', "'io.containerd.cri.v1.runtime'")
"""The same where the layout is version 3."""


def major() -> int:
    said = subprocess.run([CONTAINERD, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    number = re.search(r" v?(\d+)\.\d", said)
    assert number, said
    return int(number[1])


@pytest.fixture
def found(tmp_path: Path) -> Containerd:
    return Containerd(tmp_path / "none.sock", os.getpid(), CONTAINERD, tmp_path / "config.toml", "", None)


def edited(found: Containerd) -> tuple[Path, text.Table, text.Table]:
    """Edit as installing does; return which file, and what was in force before and is afterwards."""
    before = found.dump()
    path = containerd.file_to_edit(found)
    content = containerd.with_runtime(found, path, before, BINARY)
    containerd.check(found, path, content, before, BINARY)
    containerd.replace(path, content.encode())
    return path, before, found.dump()


@pytest.mark.parametrize("content", [None, "", "version = 2\n", "# nothing\nversion = 2\nroot = '/data/containerd'\n"])
def test_a_file_without_runtimes_keeps_the_built_in_ones(found: Containerd, content: str | None) -> None:
    if content is not None:
        found.config.write_text(content)
    _, before, after = edited(found)
    assert set(text.runtimes(after)) == {"runc", "cedana"}
    assert text.same_but_for(before, after, "cedana")


def test_the_runtime_has_the_cgroup_driver_of_the_one_that_pods_have(found: Containerd) -> None:
    found.config.write_text(f"version = 2\n{RUNC}")
    _, _, after = edited(found)
    assert text.runtimes(after)["cedana"]["options"]["SystemdCgroup"] is True
    assert text.runtimes(after)["cedana"]["options"]["BinaryName"] == BINARY
    assert text.runtimes(after)["cedana"]["pod_annotations"] == ["woodfrog.io/*"]


LAYOUTS = [
    pytest.param(2, RUNC, id="version-2"),
    pytest.param(
        3, RUNC_OF_2, id="version-3",
        marks=pytest.mark.skipif(major() < 2, reason="this machine's containerd is older than 2.0"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "runtime"), LAYOUTS)
def test_the_main_file_is_edited_in_its_own_layout(found: Containerd, layout: int, runtime: str) -> None:
    found.config.write_text(f"version = {layout}\n{runtime}")
    path, before, after = edited(found)
    assert path == found.config
    assert set(text.runtimes(after)) == {"runc", "cedana"}
    assert text.runtimes(after)["cedana"]["options"]["SystemdCgroup"] is True
    assert text.same_but_for(before, after, "cedana")
    assert text.cut(found.config.read_text(), BINARY) == f"version = {layout}\n{runtime}"


@pytest.mark.parametrize(("layout", "runtime"), LAYOUTS)
def test_the_imported_file_that_holds_the_section_is_the_one_that_is_edited(
    found: Containerd, tmp_path: Path, layout: int, runtime: str
) -> None:
    imported = tmp_path / "conf.d/nvidia.toml"
    imported.parent.mkdir()
    imported.write_text(f"version = {layout}\n{runtime}")
    main = f'version = {layout}\nimports = ["{tmp_path}/conf.d/*.toml"]\n'
    found.config.write_text(main)
    path, before, after = edited(found)
    assert path == imported
    assert found.config.read_text() == main
    assert text.same_but_for(before, after, "cedana")
    assert text.cut(imported.read_text(), BINARY) == f"version = {layout}\n{runtime}"
    assert sorted(each.name for each in imported.parent.iterdir()) == ["nvidia.toml"]


def test_a_link_stays_a_link(found: Containerd, tmp_path: Path) -> None:
    target = tmp_path / "managed.toml"
    target.write_text(f"version = 2\n{RUNC}")
    found.config.symlink_to(target)
    edited(found)
    assert found.config.is_symlink()
    assert "cedana" in target.read_text()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('disabled_plugins = ["cri"]\n', "cri-disabled"),
        (f"version = 2\n{RUNC}{RUNC.replace('.runc', '.cedana')}", "handler-foreign"),
        ("version = 2\n[plugins\n", "containerd-config"),
    ],
)
def test_what_must_not_be_edited_is_refused_and_left_alone(found: Containerd, content: str, code: str) -> None:
    found.config.write_text(content)
    with pytest.raises(FailureError) as problem:
        edited(found)
    assert problem.value.failure.code == code
    assert found.config.read_text() == content
    assert [each.name for each in found.config.parent.iterdir()] == ["config.toml"]


def test_the_file_of_k3s_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(FailureError) as problem:
        containerd.refuse_generated(Path("/var/lib/rancher/k3s/agent/etc/containerd/config.toml"))
    assert "config.toml.tmpl" in problem.value.failure.advice


@pytest.mark.skipif(major() >= 2, reason="containerd 2 keeps its built-in runtimes beside those of the file")
def test_a_file_that_would_change_other_settings_is_not_taken(found: Containerd) -> None:
    """Without the built-in runtime written down beside ours, containerd would forget it."""
    found.config.write_text("version = 2\n")
    before = found.dump()
    alone = text.add("version = 2\n", {"cedana": text.our_runtime({}, BINARY)})
    with pytest.raises(FailureError, match="other settings would change"):
        containerd.check(found, found.config, alone, before, BINARY)
    assert found.config.read_text() == "version = 2\n"
