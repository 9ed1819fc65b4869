"""A final dump that failed for a cause that can pass is tried again, and never for longer than half of the grace period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from nodeworker.domain.dump_retries import pause_seconds
from nodeworker.dump.grace_period import Tries
from woodfrog.protocol.failures import Failure

pytestmark = pytest.mark.timeout(5)


def failure(code: str) -> Failure:
    return Failure(code, "it did not work", "")


def tries(grace_seconds: float, ago_seconds: float = 0.0) -> Tries:
    came = datetime.now(UTC) - timedelta(seconds=ago_seconds)
    return Tries(came, came + timedelta(seconds=grace_seconds))


def test_pauses_grow_up_to_a_bound() -> None:
    assert [pause_seconds("traced", tries, 100.0) for tries in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize("code", ["io-uring", "socket-family", "not-running", "container-gone", "volumes-too-large"])
def test_what_cannot_pass_is_not_tried_again(code: str) -> None:
    assert tries(30).pause_seconds(failure(code)) is None


@pytest.mark.parametrize("code", ["traced", "disk-full", "external-socket", "terminal-session", "foreign-process"])
def test_what_can_pass_is_tried_again_within_half_of_the_grace_period(code: str) -> None:
    assert tries(30).pause_seconds(failure(code)) == 0.5
    assert tries(30, ago_seconds=14.8).pause_seconds(failure(code)) is None


def test_a_container_that_ended_between_two_tries_does_not_hide_why_the_first_failed() -> None:
    several = tries(30)
    several.pause_seconds(failure("traced"))
    assert several.pause_seconds(failure("container-gone")) is None
    assert several.failure == failure("traced")
