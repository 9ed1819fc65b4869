"""How long a loop waits between tries."""

from __future__ import annotations

from process.pauses import Pauses


async def test_each_pause_is_twice_as_long_up_to_the_bound_until_it_went_well() -> None:
    pauses = Pauses(0.001, 0.003)
    taken = []
    for _ in range(4):
        taken.append(pauses.next_seconds)
        await pauses.take()
    assert taken == [0.001, 0.002, 0.003, 0.003]
    pauses.reset()
    assert pauses.next_seconds == 0.001
