"""Settings from environment variables: each is read by its kind, and refused by its name.

The processes have no configuration files, so that a Deployment, a systemd unit and ``woodfrog dev`` start them in the same way and
``/proc/<pid>/environ`` shows all that was set. An unset or empty variable means its default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from math import inf
from pathlib import Path
from typing import Final, TypeVar

from woodfrog.protocol.durations import InvalidAmountError, parse_bytes, parse_seconds
from woodfrog.protocol.ids import InvalidIdError, check_id
from woodfrog.service.http import Address, InvalidAddressError

_Amount = TypeVar("_Amount", int, float)
_PLAIN_PATH: Final = re.compile(r"[\w./+@:,=~-]+")


class InvalidSettingError(ValueError):
    """A variable is missing or has a value that it may not have; the message names it."""


class Env:
    """Reads variables. Every method raises :class:`InvalidSettingError` for a value that it cannot take."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str = "") -> str:
        """Return the text as it is."""
        return self._variables.get(name) or default

    def needed(self, name: str, why: str) -> str:
        """Return the text of a variable that has no default; ``why`` ends the refusal."""
        if not (text := self.text(name)):
            raise InvalidSettingError(f"{name} is not set; {why}")
        return text

    def one_of(self, name: str, default: str, choices: Collection[str]) -> str:
        """Return one of some words."""
        text = self.text(name, default)
        if text not in choices:
            raise self.invalid(name, f"it must be {' or '.join(f'`{choice}`' for choice in choices)}")
        return text

    def switch(self, name: str, *, default: bool = False) -> bool:
        """Read ``on`` or ``off``."""
        return self.one_of(name, "on" if default else "off", ("on", "off")) == "on"

    def names(self, name: str, default: str = "") -> tuple[str, ...]:
        """Read words between commas."""
        return tuple(word.strip() for word in self.text(name, default).split(",") if word.strip())

    def id(self, name: str, default: str = "") -> str:
        """Read a name that ids and subjects can hold; empty stays empty."""
        text = self.text(name, default)
        try:
            return check_id(text, name) if text else ""
        except InvalidIdError as problem:
            raise InvalidSettingError(str(problem)) from problem

    def count(self, name: str, default: int, *, most: int | None = None) -> int:
        """Read a whole number from 1 on."""
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= (inf if most is None else most):
            bound = "of at least 1" if most is None else f"from 1 to {most}"
            raise self.invalid(name, f"it must be a whole number {bound}")
        return int(text)

    def number(self, name: str, default: float, *, least: float = 0.0, below: float = inf) -> float:
        """Read a number: ``least`` or more, and less than ``below``."""
        try:
            value = float(self.text(name, str(default)))
        except ValueError:
            value = -inf
        if not least <= value < below:
            bound = "" if below == inf else f" and less than {below:g}"
            raise self.invalid(name, f"it must be a number, {least:g} or more{bound}")
        return value

    def positive(self, name: str, default: float) -> float:
        """Read a number above 0."""
        if not (value := self.number(name, default)):
            raise self.invalid(name, "it must be a number above 0")
        return value

    def seconds(self, name: str, default: str) -> float:
        """Read a span of time, such as ``30s``."""
        return self._amount(name, parse_seconds, self.text(name, default))

    def bytes(self, name: str, default: int) -> int:
        """Read an amount, such as ``4GiB``."""
        return self._amount(name, parse_bytes, text) if (text := self.text(name)) else default

    def address(self, name: str) -> Address | None:
        """Read ``host:port``; ``None`` if nothing is to listen."""
        text = self.text(name)
        try:
            return Address.parse(text) if text else None
        except InvalidAddressError as problem:
            raise InvalidSettingError(f"{name}: {problem}") from problem

    def file(self, name: str) -> Path | None:
        """Return a path, of whatever form."""
        return Path(text) if (text := self.text(name)) else None

    def folder(self, name: str, default: str) -> Path:
        """Read an absolute path that CRIU's and runc's command lines can hold."""
        path = Path(self.text(name, default))
        if not path.is_absolute():
            raise self.invalid(name, "it must be an absolute path")
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise self.invalid(name, "CRIU cannot be given a path with blanks or quotes")
        return path

    def invalid(self, name: str, problem: str) -> InvalidSettingError:
        """Return the refusal of what a variable says."""
        return InvalidSettingError(f"{name} is {self.text(name)!r}; {problem}")

    @staticmethod
    def _amount(name: str, parse: Callable[[str], _Amount], text: str) -> _Amount:
        try:
            return parse(text)
        except InvalidAmountError as problem:
            raise InvalidSettingError(f"{name}: {problem}") from problem
