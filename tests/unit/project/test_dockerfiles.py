"""The images are built where nothing can be fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(20)

IMAGES = Path(__file__).parents[3] / "images"
NAMES = ("node", "controlplane")


def instructions(name: str) -> list[tuple[str, str]]:
    lines = (IMAGES / name / "Dockerfile").read_text().splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_copies_and_runs_nothing_and_its_base_is_an_argument(name: str) -> None:
    said = instructions(name)
    assert said[0][0] == "ARG"
    assert said[0][1].startswith("BASE=")
    assert "/" not in said[0][1], "no registry of anybody's"
    assert said[1] == ("FROM", "${BASE}")
    assert {word for word, _ in said} <= {"ARG", "FROM", "COPY", "ENV", "LABEL", "USER", "ENTRYPOINT", "CMD"}


@pytest.mark.parametrize("name", NAMES)
def test_what_changes_most_comes_last(name: str) -> None:
    copied = [rest.split()[0] for word, rest in instructions(name) if word == "COPY"]
    assert copied == sorted(copied) == ["1-debian", "2-packages", "3-app"]


def test_only_the_node_worker_is_root() -> None:
    assert dict(instructions("node"))["USER"] == "0:0"
    assert dict(instructions("controlplane"))["USER"] == "65532:65532"
