"""The slow path's own small standard library says what the real one says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeworker.runtime import minimal_stdlib

pytestmark = pytest.mark.timeout(10)
PACKAGES = Path(minimal_stdlib.__file__).parents[2]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_written_and_read_as_by_the_standard_module(value: Any) -> None:
    assert minimal_stdlib.json.dumps(value) == json.dumps(value)
    written = json.dumps(value, indent=2, ensure_ascii=False)
    assert minimal_stdlib.json.loads(f" {written}\n") == value
    assert minimal_stdlib.json.loads(written.encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize("text", ["", " ", "{", "{} {}", "[1,]", "nul", "'a'", '{"a"}', '"\n"', "\ufeff{}"])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    for module in (json, minimal_stdlib.json):
        with pytest.raises(ValueError, match=r"\S"):
            module.loads(text)


def test_numbers_that_json_does_not_know_are_read_as_before() -> None:
    assert math.isnan(minimal_stdlib.json.loads("NaN"))
    assert minimal_stdlib.json.loads("[Infinity, -Infinity]") == [math.inf, -math.inf]


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(TypeError):
        minimal_stdlib.json.dumps({"a": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        minimal_stdlib.json.dumps(loop)
    assert minimal_stdlib.json.dumps([1]) == "[1]", "a refusal leaves nothing behind"


def test_suppress_lets_pass_what_it_was_not_told_of() -> None:
    with minimal_stdlib.suppress(OSError, ValueError):
        raise FileNotFoundError
    with pytest.raises(KeyError), minimal_stdlib.suppress(OSError):
        raise KeyError


def run(program: str) -> str:
    """Run a program in the interpreter as the wrapper starts it."""
    words = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(PACKAGES)!r}); {program}"]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def test_the_slow_path_imports_none_of_the_slow_modules() -> None:
    loaded = run("import nodeworker.runtime.slowpath; print(*sys.modules)").split()
    assert not {"json", "re", "enum", "socket", "signal", "contextlib", "typing", "pathlib"} & set(loaded)


@pytest.mark.parametrize("missing", ["_json", "_socket", "_signal"])
def test_without_an_accelerator_the_standard_module_takes_its_place(missing: str) -> None:
    # The standard modules need some of them as well, so these are there again when the standard one is imported.
    program = (
        f"import importlib, builtins; real = builtins.__import__; "
        f"builtins.__import__ = lambda name, *rest: real('missing' if name == {missing!r} and "
        f"rest[0].get('__name__') == 'nodeworker.runtime.minimal_stdlib' else name, *rest); "
        f"from nodeworker.runtime import minimal_stdlib as lean; "
        f"print(lean.json.dumps([1]), int(lean.signal.SIGTERM), int(lean.socket.AF_UNIX), "
        f"{missing.lstrip('_')!r} in sys.modules)"
    )
    assert run(program) == "[1] 15 1 True"
