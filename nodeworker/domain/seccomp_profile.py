"""Whether a compiled seccomp filter allows no more than the profile of a config.json would.

A profile and the filter that was made from an equal one fit. They differ when somebody changes the profile, and also when an engine's
default does, which mostly grows: then every call that the filter lets through must be one that the profile allows. Where that
cannot be shown, the answer is no. Source: the OCI runtime specification (config-linux.md), seccomp_rule_add(3).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from nodeworker.domain.seccomp_filter import Budget, Comparison, UnknownFilterError, paths
from nodeworker.domain.syscalls import names

_ALLOWING: Final = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"})
_TOKENS: Final = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
"""AUDIT_ARCH_… (linux/audit.h)."""
_OF_MACHINE: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
"""Whose calls a kernel takes, its own first."""
_NARROW: Final = frozenset({"SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_ARM"})
"""With arguments of 32 bits, of which filters compare the lower half only."""
_X32_BIT: Final = 0x40000000
_X32_OWN: Final = 512
_NUMBERS: Final = 1024
_WORD: Final = 0xFFFFFFFF
_MULTIPLEXERS: Final = {"socketcall": "socket", "ipc": "shmget"}
"""Calls of x86 that stand for others: rules about those become rules about these as well."""

Condition = tuple[int, str, int, int]
"""Argument, operator, value and second value of a rule."""


def excess_calls(chain: Sequence[bytes], profile: Mapping[str, Any], machine: str) -> str | None:
    """Return what a thread's filters, all of which hold, let through beyond a profile; ``None`` if nothing.

    Args:
        chain: the programs of one thread.
        profile: ``linux.seccomp``.
        machine: as ``uname -m`` names it.
    """
    if machine not in _OF_MACHINE:
        return f"calls that are not known here, on {machine}"
    problems, budget = [], Budget()
    for program in chain:
        try:
            problem = _of_program(program, profile, machine, budget)
        except UnknownFilterError as unknown:
            problem = f"calls that cannot be determined: {unknown}"
        if problem is None:
            return None
        problems.append(problem)
    return problems[0] if problems else "every call"


def _of_program(program: bytes, profile: Mapping[str, Any], machine: str, budget: Budget) -> str | None:
    own, *others = _OF_MACHINE[machine]
    rules = _Rules(profile)
    for architecture in (own, *others):
        named = architecture == own or architecture in (profile.get("architectures") or ())
        if named and not names(architecture):
            continue  # the same profile made both, and nothing here knows its calls by number
        bit = _X32_BIT if architecture == "SCMP_ARCH_X32" else 0
        table = names(architecture)
        for number in range(_NUMBERS):
            if bit and number >= _X32_OWN:
                break
            ways = paths(program, _TOKENS[architecture], number | bit, budget)
            name = table.get(number)
            if ways and not (named and rules.allow(name, ways, narrow=architecture in _NARROW)):
                return f"{name or f'call {number}'}{'' if architecture == own else f' of {architecture}'}"
    return None


class _Rules:
    """A profile by names."""

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self._default = profile.get("defaultAction") in _ALLOWING
        self._always: dict[str, bool] = {}
        self._if: dict[str, list[tuple[bool, tuple[Condition, ...]]]] = {}
        for rule in profile.get("syscalls") or ():
            allows = rule.get("action") in _ALLOWING
            given = tuple(_conditions(rule.get("args") or ()))
            for name in rule.get("names") or ():
                if given:
                    # Several conditions about one argument are alternatives (runc: libcontainer/seccomp, matchCall).
                    alone = len({each[0] for each in given}) < len(given)
                    self._if.setdefault(name, []).extend(
                        (allows, way) for way in ([(x,) for x in given] if alone else [given])
                    )
                else:
                    self._always[name] = allows and self._always.get(name, True)
        known = {name for machine in _OF_MACHINE.values() for each in machine for name in names(each).values()}
        self._unknown = any(allows and name not in known for name, allows in self._always.items())

    def allow(self, name: str | None, ways: Collection[tuple[Comparison, ...]], *, narrow: bool) -> bool:
        """Say whether all these ways to make a call are allowed; of a number without a name if the profile has such names."""
        if name is None:
            return self._default or self._unknown
        if name in self._always:
            return self._always[name]
        conditional = self._if.get(name, [])
        if not conditional and name in _MULTIPLEXERS and _MULTIPLEXERS[name] in {*self._always, *self._if}:
            return True
        if self._default:
            return all(allows for allows, _ in conditional)
        allowed = [given for allows, given in conditional if allows]
        return all(any(all(_implies(way, one, narrow=narrow) for one in given) for given in allowed) for way in ways)


def _conditions(arguments: Iterable[Mapping[str, Any]]) -> Iterator[Condition]:
    for one in arguments:
        yield int(one["index"]), str(one["op"]), int(one.get("value") or 0), int(one.get("valueTwo") or 0)


def _implies(way: Collection[Comparison], condition: Condition, *, narrow: bool) -> bool:
    """Say whether what a path has compared means that a condition holds."""
    index, operator, value, second = condition
    low, high = 2 * index, 2 * index + 1
    match operator:
        case "SCMP_CMP_EQ":
            return _is(way, low, _WORD, value & _WORD) and (narrow or _is(way, high, _WORD, value >> 32))
        case "SCMP_CMP_MASKED_EQ":
            upper = narrow or _is(way, high, value >> 32, second >> 32)
            return upper and _is(way, low, value & _WORD, second & _WORD)
        case "SCMP_CMP_NE":
            return _is_not(way, low, value & _WORD) or _is_not(way, high, value >> 32)
        case _:
            return False


def _is(way: Collection[Comparison], word: int, mask: int, value: int) -> bool:
    return mask == 0 or any(
        one.equal and one.word == word and one.mask & mask == mask and one.value & mask == value & mask for one in way
    )


def _is_not(way: Collection[Comparison], word: int, value: int) -> bool:
    return any(
        one.word == word
        and (
            (not one.equal and one.mask == _WORD and one.value == value)
            or (one.equal and one.value != value & one.mask)
        )
        for one in way
    )
