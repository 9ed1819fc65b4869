"""References in environment variables: both sides replace them as the kubelet does, and no environment makes them large."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kube.env_expansion import VALUE_CHARS, checkpoint_ids, expand
from controlplane.kube.models import Pod
from nodeworker.runtime import container
from woodfrog.protocol import wire

KNOWN = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}
KUBELETS = {
    "$(VAR_A)": "A",
    "___$(VAR_B)___": "___B___",
    "___$(VAR_C)": "___C",
    "$(VAR_A)-$(VAR_A)": "A-A",
    "$(VAR_A)_$(VAR_B)_$(VAR_C)": "A_B_C",
    "$$(VAR_B)_$(VAR_A)": "$(VAR_B)_A",
    "$$(VAR_A)_$$(VAR_B)": "$(VAR_A)_$(VAR_B)",
    "f000-$$VAR_A": "f000-$VAR_A",
    "foo\\$(VAR_C)bar": "foo\\Cbar",
    "foo\\\\$(VAR_C)bar": "foo\\\\Cbar",
    "$(VAR_A$(VAR_B))": "$(VAR_A$(VAR_B))",
    "$(VAR_A$(VAR_B)": "$(VAR_A$(VAR_B)",
    "$(VAR_REF)": "$(VAR_A)",
    "%%$(VAR_REF)--$(VAR_REF)%%": "%%$(VAR_A)--$(VAR_A)%%",
    "foo$(VAR_EMPTY)bar": "foobar",
    "foo$(VAR_Awhoops!": "foo$(VAR_Awhoops!",
    "f00__(VAR_A)__": "f00__(VAR_A)__",
    "$?_boo_$!": "$?_boo_$!",
    "$VAR_A": "$VAR_A",
    "$(VAR_DNE)": "$(VAR_DNE)",
    "$$$$$$(BIG_MONEY)": "$$$(BIG_MONEY)",
    "$$$$$$(VAR_A)": "$$$(VAR_A)",
    "$$$$$$$(GOOD_ODDS)": "$$$$(GOOD_ODDS)",
    "$$$$$$$(VAR_A)": "$$$A",
    "$VAR_A)": "$VAR_A)",
    "${VAR_A}": "${VAR_A}",
    "$(VAR_B)_______$(A": "B_______$(A",
    "$(VAR_C)_______$(": "C_______$(",
    "$(VAR_A)foobarzab$": "Afoobarzab$",
    "foo-\\$(VAR_A": "foo-\\$(VAR_A",
    "--$($($($($--": "--$($($($($--",
    "$($($($($--foo$(": "$($($($($--foo$(",
    "foo0--$($($($(": "foo0--$($($($(",
    "$(foo$$var)": "$(foo$$var)",
    "\n": "\n",
}
"""third_party/forked/golang/expansion/expand_test.go of Kubernetes."""

NAMES = st.sampled_from(["A", "B", "C", "D", "ID", "A(", "$", ""])
TEXTS = st.lists(
    st.one_of(st.sampled_from(["$", "$$", "(", ")", "$(", "x", "y.", "-"]), NAMES.map(lambda name: f"$({name})")),
    max_size=8,
).map("".join)
ENVIRONMENTS = st.lists(st.tuples(NAMES.filter(bool), TEXTS), max_size=8)


def pod(environment: list[tuple[str, str]]) -> Pod:
    env = [{"name": name, "value": value} for name, value in environment]
    written: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"},
        "spec": {"containers": [{"name": "main", "env": env}]},
    }
    return wire.decode(json.dumps(written), Pod)  # type: ignore[no-any-return]


def kubelets(text: str, known: dict[str, str]) -> str:
    """Expand, step by step as third_party/forked/golang/expansion/expand.go does."""
    pieces, checkpoint, cursor = [], 0, 0
    while cursor < len(text):
        if text[cursor] == "$" and cursor + 1 < len(text):
            pieces.append(text[checkpoint:cursor])
            rest = text[cursor + 1 :]
            advance = 1
            if rest[0] == "$":
                pieces.append("$")
            elif rest[0] == "(" and ")" in rest:
                name = rest[1 : rest.index(")")]
                pieces.append(known.get(name, f"$({name})"))
                advance = rest.index(")") + 1
            else:
                pieces.append("$" + rest[0])
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return "".join(pieces) + text[checkpoint:]


def made(environment: list[tuple[str, str]]) -> list[str]:
    """What the kubelet gives the container."""
    known: dict[str, str] = {}
    for name, value in environment:
        known[name] = kubelets(value, known)
    return [f"{name}={value}" for name, value in known.items()]


@pytest.mark.parametrize(("text", "expanded"), KUBELETS.items())
def test_expansion_is_that_of_the_kubelets_table(text: str, expanded: str) -> None:
    assert expand(text, KNOWN) == expanded
    assert kubelets(text, KNOWN) == expanded


@given(TEXTS, st.dictionaries(NAMES, TEXTS))
def test_expansion_is_the_kubelets_for_any_text(text: str, known: dict[str, str]) -> None:
    assert expand(text, known) == kubelets(text, known)


@given(ENVIRONMENTS)
def test_both_sides_read_the_same_id(environment: list[tuple[str, str]]) -> None:
    value = container.variable({"process": {"env": made(environment)}}, "ID")
    by_watcher = checkpoint_ids(pod(environment), "ID").get("main")
    if by_watcher is not None:
        assert by_watcher == value
    else:
        assert not value or "$(" in value


def doubling(count: int, *, backwards: bool = False) -> list[tuple[str, str]]:
    each = [("A0", "0123456789" * 8)] + [(f"A{n}", f"$(A{n - 1})" * 2) for n in range(1, count)]
    return [("ID", f"$(A{count - 1})"), *reversed(each)] if backwards else [*each, ("ID", f"$(A{count - 1})")]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("count", [31, 5000])
def test_variables_that_double_each_other_end_at_the_budget(count: int, backwards: bool) -> None:
    environment = doubling(count, backwards=backwards)
    assert checkpoint_ids(pod(environment), "ID") == {}
    left = [f"{name}={value}" for name, value in environment]
    value = container.variable({"process": {"env": left}}, "ID")
    assert value is not None
    assert len(value) <= VALUE_CHARS


def test_an_id_beside_a_large_environment_is_known() -> None:
    environment = [("BIG", "x" * (1 << 20)), ("N", "3"), *doubling(31)[:-1], ("ID", "train-$(N)")]
    assert checkpoint_ids(pod(environment), "ID") == {"main": "train-3"}


@given(st.lists(st.sampled_from(["$(", "$(A)", "$(B)", "$", ")", "x" * 1000]), max_size=50), st.integers(0, 20_000))
def test_no_text_grows_beyond_the_budget_on_either_side(pieces: list[str], size: int) -> None:
    text, known = "".join(pieces), {"A": "a" * size, "B": "$(A)" * 100}
    expanded = expand(text, known)
    assert expanded is None or len(expanded) <= max(VALUE_CHARS, len(text))
    env = [f"ID={text}", *(f"{name}={value}" for name, value in known.items())]
    value = container.variable({"process": {"env": env}}, "ID")
    assert value is not None
    assert len(value) <= max(VALUE_CHARS, len(text))


def test_a_megabyte_of_open_references_takes_no_time() -> None:
    text = "$(" * (1 << 19)
    assert expand(text, {}) in {None, text}
    assert container.variable({"process": {"env": [f"ID={text})"]}}, "ID") == f"{text})"


def test_both_sides_have_the_same_budget() -> None:
    assert container.VALUE_CHARS == VALUE_CHARS
