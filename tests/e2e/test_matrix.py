"""A part of `make matrix`: programs that every machine has continue on another node, and back, with their state."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix.nodes import two_nodes
from matrix.on_machine import OneMachine
from matrix.programs import PROGRAMS
from matrix.runner import live
from support.stack import Stack

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(240)]

EACH_TIME = ("bash-pipeline", "perl", "python-threads", "sqlite")


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Stack, Stack]]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder, two_nodes(Path(folder)) as up:
        yield up


@pytest.mark.parametrize("name", EACH_TIME)
def test_a_program_continues_on_another_node_and_back(nodes: tuple[Stack, Stack], name: str) -> None:
    program = next(program for program in PROGRAMS if program.name == name)
    assert program.on_any_machine
    row = live(program, OneMachine(nodes, {program.suite: Path("/")}))
    assert row.out_of_the_box, row
    assert row.moves == 2
    assert row.freeze_seconds
    assert row.stored_bytes
