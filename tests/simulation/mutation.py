"""Deliberate breakages of the domain, to prove that the laws can be broken: a function's text is changed, and its code swapped."""

from __future__ import annotations
import __future__

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType

import controlplane.domain


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for owner in (module, *(each for each in vars(module).values() if inspect.isclass(each))):
        for each in vars(owner).values():
            function = each.fget if isinstance(each, property) else each
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


def _holding(text: str) -> FunctionType:
    """Find the one function of the domain in which ``text`` stands, once."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(controlplane.domain.__path__, "controlplane.domain.")
    ]
    found = {
        function.__code__: function
        for module in modules
        for function in _functions(module)
        if text in inspect.getsource(function)
    }
    assert len(found) == 1, f"{text!r} stands in {[function.__qualname__ for function in found.values()]}"
    return found.popitem()[1]


@contextmanager
def mutated(old: str, new: str) -> Iterator[None]:
    """Let the domain be what it would be with ``old`` replaced by ``new`` in its source, for all who imported it."""
    function = _holding(old)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} stands in {function.__qualname__} {source.count(old)} times"
    text = source.replace(old, new).removeprefix("@property\n")
    made = dict(function.__globals__)
    flags = __future__.annotations.compiler_flag
    exec(compile(text, f"<mutant of {function.__qualname__}>", "exec", flags=flags), made)
    original = function.__code__
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original
