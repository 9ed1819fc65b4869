"""Where the stack of one machine may keep its state."""

from __future__ import annotations

from pathlib import Path

import pytest

from woodfrog.dev_state import StateDirectory
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)


@pytest.mark.parametrize("character", list(" \t\n\"'#:,\\?%$;(*[{&|!`<"))
def test_a_path_that_a_part_of_the_stack_cannot_take_is_refused_before_anything_is_made(
    tmp_path: Path, character: str
) -> None:
    directory = StateDirectory(tmp_path / f"a{character}b")
    with pytest.raises(FailureError) as refused:
        directory.make()
    assert refused.value.failure.code == "state-dir-unfit"
    assert repr(character) in refused.value.failure.cause
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["é", "a=b", "a~b", "a+b", "a@b", "a-b_c.d"])
def test_other_paths_are_taken(tmp_path: Path, name: str) -> None:
    StateDirectory(tmp_path / name).make()
    assert (tmp_path / name).is_dir()
