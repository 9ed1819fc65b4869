"""The door of the input loop, as those who bring inputs see it.

The bus knows neither how decisions are made nor where they are kept; it hands an input over and waits for what became of it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from controlplane.domain.inputs import Answer, Input


class InputResult(msgspec.Struct, frozen=True):
    """What became of an input. It is told only after everything decided about it is durable."""

    answer: Answer | None = None
    rejected: str | None = None
    """Why a report was not believed; nothing was recorded of it."""
    forgotten: bool = False
    """Whether that is because its id was forgotten."""
    overtaken: bool = False
    """The report says nothing that the log does not know, from other words than its own; nothing was recorded of it."""
    repeated: bool = False
    """The report had been recorded before; nothing was recorded now."""


class UndecidableError(Exception):
    """The input brought the decision itself down: a defect of ours. Nothing was recorded; the next input is not affected."""


class InputQueue(Protocol):
    """Takes inputs in, one after the other."""

    async def enqueue(self, source_input: Input, *, actor: str) -> asyncio.Future[InputResult]:
        """Hand an input over. Inputs are decided in the order in which this returns.

        The future raises :class:`UndecidableError`, or :class:`controlplane.log.records.LogUnavailableError` when the log
        could not take the outcome.
        """
        ...
