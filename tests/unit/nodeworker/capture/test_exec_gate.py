"""What the runtime's shell part is told of containers that stand still."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.capture import exec_gate
from nodeworker.capture.criu.freezer import Freezer

pytestmark = pytest.mark.timeout(5)


@pytest.mark.parametrize(("version", "name"), [(1, "freezer.state"), (2, "cgroup.freeze")])
def test_the_word_names_where_the_kernel_says_it_and_is_taken_back(tmp_path: Path, version: int, name: str) -> None:
    with exec_gate.closed(tmp_path, Freezer(Path("/cgroup/c"), version)):
        assert [path.read_text() for path in tmp_path.iterdir()] == [f"/cgroup/c/{name}\n"]
    assert list(tmp_path.iterdir()) == []


def test_no_word_can_be_given_where_there_is_no_folder_and_nothing_fails(tmp_path: Path) -> None:
    with exec_gate.closed(tmp_path / "none", Freezer(Path("/cgroup/c"), 2)):
        pass


def test_what_an_earlier_life_left_is_taken_back(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "frozen").touch()
        (tmp_path / name / "marker").touch()
    exec_gate.open_all(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["marker", "marker"]
