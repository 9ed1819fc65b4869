"""How every process of Woodfrog ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from woodfrog.service.lifecycle import until_signalled

pytestmark = pytest.mark.timeout(5)


class Work:
    """Runs until cancelled and then takes three turns to clean up."""

    def __init__(self) -> None:
        self.cleaned = 0

    async def run(self, *signals: signal.Signals) -> None:
        try:
            os.kill(os.getpid(), signals[0])
            await asyncio.sleep(60)
        finally:
            for number in signals[1:]:
                os.kill(os.getpid(), number)
            for _ in range(3):
                await asyncio.sleep(0.01)
                self.cleaned += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_work_clean_up(number: signal.Signals) -> None:
    work = Work()
    await until_signalled(work.run(number))
    assert work.cleaned == 3


async def test_more_signals_do_not_cut_the_cleaning_up_short() -> None:
    work = Work()
    await until_signalled(work.run(signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    assert work.cleaned == 3


async def test_the_death_of_the_work_is_told() -> None:
    async def die() -> None:
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        await until_signalled(die())
