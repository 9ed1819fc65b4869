"""Fuzzing by hypothesis: valid specimens from a kept corpus, changed in their structure and in their bytes.

Each reader of what another party wrote is fed for ``WOODFROG_FUZZ_SECONDS`` (two in ``make test``, sixty in ``make fuzz``), in turns of
examples that begin with ``WOODFROG_FUZZ_SEED``, which is the same each time unless it is set; ``WOODFROG_FUZZ_TURNS`` bounds the turns, so
that a faster machine does not see other examples than the one before. What fails is made small by hypothesis; a specimen of it belongs into
the corpus, with the repair.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from woodfrog.protocol.failures import FailureError

CORPUS = Path(__file__).parents[1] / "security/fuzz/corpus"
SECONDS = float(os.environ.get("WOODFROG_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("WOODFROG_FUZZ_SEED") or 0)
TURNS = int(os.environ.get("WOODFROG_FUZZ_TURNS") or sys.maxsize)
_EXAMPLES = 50
_DEEP = 3000
_LONG = "a" * 5000
_MARK = "\ue000"
"""Stands for brackets in brackets, which json.dumps would not write."""

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 255, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63) - 1, 10**30, 0.5, -0.0, 1e308,
    "", " ", "\0", "a\0b", "a/b", "/", ".", "..", "../../outside/canary", "/outside/canary", "a/../../outside/canary", "outside",
    "a" * 300, _LONG, "\ud800", "\U0010fffe2e", "\U0010fffe00", "\u202e", "\uff19", "$(A)$(A)", "$$$(B)", "%00", "*.>", "\n", "1e9", "1e999h",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "-1", "0x10", "1_0", "NaN",
    [], {}, [[]], [None], {"a": {}}, {"": ""}, ["../x"], [1 << 70],
)  # fmt: skip
"""What is put where something else was; no path of the machine's own is among them, for some readers write files."""


def corpus(kind: str) -> list[bytes]:
    """All specimens of a kind."""
    found = [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]
    assert found
    return found


def fuzz(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a test that runs its function with what the strategies give, for as long as is wanted."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        @pytest.mark.timeout(SECONDS + 120)
        def test() -> None:
            until = time.monotonic() + SECONDS
            for turn in range(TURNS):
                run = given(**strategies)(check)
                run = settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))(run)
                seed(SEED + turn)(run)()
                if time.monotonic() >= until:
                    return

        test.__name__ = check.__name__
        test.__doc__ = check.__doc__
        return test

    return decorate


def is_short(problem: BaseException, characters: int = 2000) -> None:
    """A complaint quotes as much of what it complains of as a person reads, and no more."""
    assert len(str(problem)) <= characters


def is_refusal(problem: FailureError, codes: Collection[str]) -> None:
    """A refusal has one of the codes that the reader's docstring names, and is short."""
    assert problem.failure.code in codes, problem
    is_short(problem)


_places = st.integers(0, 1 << 20)
_bytes_edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "repeat", "cut", "splice"]),
        _places,
        st.integers(1, 64),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def bytes_of(draw: st.DrawFn, specimens: Sequence[bytes]) -> bytes:
    """A specimen with a few of its bytes changed."""
    data = bytearray(draw(st.sampled_from(specimens)))
    for kind, place, length, more in draw(_bytes_edits):
        at = place % (len(data) + 1)
        if kind == "set":
            data[at : at + len(more)] = more
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << length % 8
        elif kind == "insert":
            data[at:at] = more
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * (1 + length % 5)
        elif kind == "cut":
            del data[at:]
        elif kind == "splice":
            other = draw(st.sampled_from(specimens))
            data[at:] = other[at % (len(other) + 1) :]
    return bytes(data)


_json_edits = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remove", "double", "rename", "swap", "add", "deep"]),
        _places,
        _places,
        st.sampled_from(HOSTILE),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def json_of(draw: st.DrawFn, specimens: Sequence[bytes]) -> bytes:
    """A specimen of JSON with parts of its structure changed, and sometimes some of its bytes as well."""
    root = [json.loads(draw(st.sampled_from(specimens)))]
    for kind, place, other, value in draw(_json_edits):
        slots = list(_slots(root))
        holder, key = slots[place % len(slots)]
        second, second_key = slots[other % len(slots)]
        _edit(root, holder, key, kind, copy.deepcopy(second[second_key] if kind == "swap" else value))
    data = json.dumps(root[0]).encode().replace(json.dumps(_MARK).encode(), b"[" * _DEEP + b"]" * _DEEP)
    return draw(bytes_of([data])) if draw(st.integers(0, 9)) == 0 else data


def _edit(root: Any, holder: Any, key: Any, kind: str, value: Any) -> None:
    if kind in {"put", "swap"}:
        holder[key] = value
    elif kind == "deep":
        holder[key] = _MARK
    elif kind == "double" and isinstance(holder[key], list):
        holder[key] = holder[key] * 2
    elif kind == "double" and isinstance(holder, list) and holder is not root:
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == "add" and isinstance(holder[key], dict):
        holder[key]["unknown"] = value
    elif kind == "rename" and isinstance(holder, dict):
        holder[value if isinstance(value, str) else "x"] = holder.pop(key)
    elif kind == "remove" and holder is not root:
        del holder[key]


def _slots(holder: Any) -> Any:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _slots(holder[key])


def plain_of(specimens: Sequence[bytes]) -> st.SearchStrategy[Any]:
    """The same as values instead of bytes; only what still is JSON."""

    def read(data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None

    return json_of(specimens).map(read).filter(lambda value: value is not None)
