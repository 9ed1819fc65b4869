"""Settings from the environment: by their kinds, and refused by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from woodfrog.service.env import Env, InvalidSettingError
from woodfrog.service.http import Address

pytestmark = pytest.mark.timeout(5)

READ: list[tuple[str, Any, Callable[[Env], Any]]] = [
    ("a b", "a b", lambda env: env.text("V")),
    ("kubernetes", "kubernetes", lambda env: env.one_of("V", "sql", ("sql", "kubernetes"))),
    ("on", True, lambda env: env.switch("V")),
    ("off", False, lambda env: env.switch("V", default=True)),
    (" a, ,b", ("a", "b"), lambda env: env.names("V", "c")),
    ("node-1", "node-1", lambda env: env.id("V")),
    ("7", 7, lambda env: env.count("V", 3)),
    ("7", 7.0, lambda env: env.number("V", 3.0, least=7.0)),
    ("0.5", 0.5, lambda env: env.positive("V", 3.0)),
    ("1.5h", 5400.0, lambda env: env.seconds("V", "60s")),
    ("4GiB", 4 << 30, lambda env: env.bytes("V", 1)),
    (":80", Address("", 80), lambda env: env.address("V")),
    ("x y", Path("x y"), lambda env: env.file("V")),
    ("/srv/w", Path("/srv/w"), lambda env: env.folder("V", "/d")),
]

DEFAULTS: list[tuple[Any, Callable[[Env], Any]]] = [
    ("d", lambda env: env.text("V", "d")),
    ("sql", lambda env: env.one_of("V", "sql", ("sql", "kubernetes"))),
    (True, lambda env: env.switch("V", default=True)),
    (("c",), lambda env: env.names("V", "c")),
    ("", lambda env: env.id("V")),
    (3, lambda env: env.count("V", 3)),
    (0.0, lambda env: env.number("V", 0.0)),
    (60.0, lambda env: env.seconds("V", "60s")),
    (1 << 50, lambda env: env.bytes("V", 1 << 50)),
    (None, lambda env: env.address("V")),
    (None, lambda env: env.file("V")),
    (Path("/d"), lambda env: env.folder("V", "/d")),
]

REFUSED: list[tuple[str, Callable[[Env], Any]]] = [
    ("etcd", lambda env: env.one_of("V", "sql", ("sql", "kubernetes"))),
    ("yes", lambda env: env.switch("V")),
    ("a/b", lambda env: env.id("V")),
    ("0", lambda env: env.count("V", 3)),
    ("8", lambda env: env.count("V", 3, most=7)),
    ("\u0663", lambda env: env.count("V", 3)),
    ("1e3", lambda env: env.count("V", 3)),
    ("nan", lambda env: env.number("V", 3.0)),
    ("inf", lambda env: env.number("V", 3.0)),
    ("-1", lambda env: env.number("V", 3.0)),
    ("100", lambda env: env.number("V", 3.0, below=100.0)),
    ("0", lambda env: env.positive("V", 3.0)),
    ("60", lambda env: env.seconds("V", "60s")),
    ("4GB", lambda env: env.bytes("V", 1)),
    ("80", lambda env: env.address("V")),
    ("relative", lambda env: env.folder("V", "/d")),
    ("/with a blank", lambda env: env.folder("V", "/d")),
]


@pytest.mark.parametrize(("text", "value", "read"), READ)
def test_a_value_is_read_by_its_kind(text: str, value: object, read: Callable[[Env], Any]) -> None:
    assert read(Env({"V": text})) == value


@pytest.mark.parametrize(("value", "read"), DEFAULTS)
def test_unset_or_empty_it_has_its_default(value: object, read: Callable[[Env], Any]) -> None:
    assert read(Env({})) == value
    assert read(Env({"V": ""})) == value


@pytest.mark.parametrize(("text", "read"), REFUSED)
def test_what_it_may_not_say_is_refused_by_its_name(text: str, read: Callable[[Env], Any]) -> None:
    with pytest.raises(InvalidSettingError, match=r"^V\b"):
        read(Env({"V": text}))


def test_what_has_no_default_is_asked_for() -> None:
    with pytest.raises(InvalidSettingError, match="V is not set; it says where"):
        Env({"V": ""}).needed("V", "it says where")
