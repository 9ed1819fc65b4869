"""How long a loop waits between tries."""

from __future__ import annotations

from woodfrog.service.backoff import Backoff


async def test_each_pause_is_twice_as_long_up_to_the_bound_until_it_went_well() -> None:
    backoff = Backoff(0.001, 0.003)
    taken = []
    for _ in range(4):
        taken.append(backoff.next_seconds)
        await backoff.sleep()
    assert taken == [0.001, 0.002, 0.003, 0.003]
    backoff.reset()
    assert backoff.next_seconds == 0.001
