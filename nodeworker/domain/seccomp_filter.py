"""What a compiled seccomp filter lets through, found by following every path that it can take for a system call.

A filter is a classic BPF program without loops (seccomp(2), linux/filter.h). Its input is the number of the call, the architecture,
the instruction pointer and six arguments of 64 bits, which it can only read by words of 32 bits. Number and architecture are
given here; of the arguments the comparisons are remembered on which a path depends. What this reader does not know is an error: such
a filter cannot be shown to be anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_INSTRUCTION: Final = struct.Struct("<HBBI")
_LOAD, _LOAD_CONSTANT, _AND, _JUMP, _RETURN, _RETURN_A = 0x20, 0x00, 0x54, 0x05, 0x06, 0x16
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45
_MOST_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS (linux/bpf_common.h)."""
_MOST_PATHS: Final = 4096
_FIRST_ARGUMENT: Final = 16
_WORD: Final = 0xFFFFFFFF
_ACTION: Final = 0xFFFF0000
_REFUSING: Final = frozenset({0x00000000, 0x80000000, 0x00030000, 0x00050000})
"""SECCOMP_RET_KILL_THREAD, _KILL_PROCESS, _TRAP, _ERRNO; all else may let a call through."""


class UnknownFilterError(ValueError):
    """A filter does what this reader does not know."""


class Budget:
    """How many instructions may be followed for one chain of filters, so that none keeps the worker busy for long."""

    def __init__(self, instructions: int = 1 << 23) -> None:
        self.left = instructions

    def take(self, instructions: int) -> None:
        """Use some of it.

        Raises:
            UnknownFilterError: it is used up.
        """
        self.left -= instructions
        if self.left < 0:
            raise UnknownFilterError("it takes too long")


class Comparison(NamedTuple):
    """One comparison of a word of an argument, and how it came out."""

    word: int
    """Twice the argument's number, plus one for its upper half (little endian)."""
    mask: int
    """What of the word was compared."""
    value: int
    equal: bool
    """Whether it was equal; comparisons of order are not kept."""


class _Value(NamedTuple):
    """The accumulator: a known number, or a word of an argument under a mask; neither if nothing of it matters."""

    known: int | None = None
    word: int | None = None
    mask: int = _WORD


def paths(program: bytes, architecture: int, number: int, budget: Budget | None = None) -> list[tuple[Comparison, ...]]:
    """Return on what each path depends that lets this call through; no path: it is refused.

    Raises:
        UnknownFilterError: the program is none, or not understood.
    """
    if not program or len(program) % _INSTRUCTION.size or len(program) > _MOST_INSTRUCTIONS * _INSTRUCTION.size:
        raise UnknownFilterError("it is not a program")
    code = list(_INSTRUCTION.iter_unpack(program))
    budget = budget or Budget()
    found: list[tuple[Comparison, ...]] = []
    waiting: list[tuple[int, _Value, tuple[Comparison, ...]]] = [(0, _Value(), ())]
    seen = 0
    while waiting:
        place, value, kept = waiting.pop()
        seen += 1
        if seen > _MOST_PATHS:
            raise UnknownFilterError("it has too many paths")
        end = _run(code, place, value, kept, (architecture, number), budget)
        if isinstance(end, int):
            if end & _ACTION not in _REFUSING:
                found.append(kept)
        else:
            waiting += end
    return found


def _run(
    code: list[tuple[int, int, int, int]],
    place: int,
    value: _Value,
    kept: tuple[Comparison, ...],
    call: tuple[int, int],
    budget: Budget,
) -> int | list[tuple[int, _Value, tuple[Comparison, ...]]]:
    """Follow the program until it returns an action, or forks."""
    while place < len(code):
        budget.take(1)
        what, if_true, if_false, operand = code[place]
        place += 1
        if what == _RETURN:
            return operand
        if what == _RETURN_A and value.known is not None:
            return value.known
        if what in {_LOAD, _LOAD_CONSTANT, _AND}:
            value = _loaded(what, operand, value, call)
        elif what == _JUMP:
            place += operand
        elif what not in {_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT}:
            raise UnknownFilterError(f"it has the instruction {what:#x}")
        elif value.known is not None:
            place += if_true if _compare(what, value.known, operand) else if_false
        else:
            budget.take(2 * len(kept))
            return list(_fork(what, operand, value, kept, (place + if_true, place + if_false)))
    raise UnknownFilterError("it has no end")


def _loaded(what: int, operand: int, value: _Value, call: tuple[int, int]) -> _Value:
    if what == _LOAD_CONSTANT:
        return _Value(known=operand)
    if what == _AND:
        if value.known is not None:
            return _Value(known=value.known & operand)
        return value._replace(mask=value.mask & operand)
    if operand == 0:
        return _Value(known=call[1])
    if operand == 4:
        return _Value(known=call[0])
    if operand % 4 or operand >= _FIRST_ARGUMENT + 6 * 8:
        raise UnknownFilterError(f"it reads at {operand}")
    return _Value(word=(operand - _FIRST_ARGUMENT) // 4 if operand >= _FIRST_ARGUMENT else None)


def _compare(what: int, left: int, right: int) -> bool:
    match what:
        case 0x15:
            return left == right
        case 0x25:
            return left > right
        case 0x35:
            return left >= right
        case _:
            return bool(left & right)


def _fork(
    what: int, operand: int, value: _Value, kept: tuple[Comparison, ...], places: tuple[int, int]
) -> Iterator[tuple[int, _Value, tuple[Comparison, ...]]]:
    for place, outcome in zip(places, (True, False), strict=True):
        known = kept
        if value.word is not None and what == _EQUAL:
            known = (*kept, Comparison(value.word, value.mask, operand, outcome))
        elif value.word is not None and what == _ANY_BIT and not outcome:
            known = (*kept, Comparison(value.word, value.mask & operand, 0, equal=True))
        yield place, value, known
