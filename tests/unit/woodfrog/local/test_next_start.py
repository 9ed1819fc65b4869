"""What is said when a container has ended is what the next one does."""

from __future__ import annotations

from typing import Any

import pytest

from woodfrog.local.next_start import after_capture, after_refusal, is_settled

pytestmark = pytest.mark.timeout(5)

LATEST: list[dict[str, Any]] = [{"snapshot_id": "s2", "pinned": False}]


def row(status: str, **other: Any) -> dict[str, Any]:
    return {"snapshot_id": "s2", "status": status, **other}


@pytest.mark.parametrize("status", ["dumping", "captured"])
def test_what_is_not_stored_yet_is_promised_for_later(status: str) -> None:
    history = [row(status)]
    assert not is_settled("s2", history)
    assert after_capture("t", "s2", history, []) == (
        "captured as s2, not stored yet; run t again on this node, or anywhere once it is stored, and it resumes from there"
    )


def test_what_nobody_has_heard_of_yet_is_promised_for_later() -> None:
    assert not is_settled("s2", [])
    assert "not stored yet" in after_capture("t", "s2", [], [])


def test_what_is_valid_and_the_latest_is_promised() -> None:
    assert is_settled("s2", [row("valid")])
    said = after_capture("t", "s2", [row("valid")], LATEST)
    assert said == "captured as s2; run t again and it resumes from there"


BEING_CREATED = {
    "incarnation": 3,
    "node": "n1",
    "choice": "restored",
    "snapshot_id": "s1",
    "started_at": None,
    "ended_at": None,
}


@pytest.mark.parametrize(
    ("otherwise", "promised"),
    [
        ({}, False),
        ({"choice": "cold", "snapshot_id": None}, False),
        ({"choice": None}, True),
        ({"snapshot_id": "s2"}, True),
        ({"ended_at": "2026-12-01T12:00:00Z"}, True),
        ({"incarnation": 1}, True),
    ],
)
def test_what_a_start_that_is_being_created_does_without_is_not_promised(
    otherwise: dict[str, Any], promised: bool
) -> None:
    starts = [{**BEING_CREATED, "incarnation": 2, "snapshot_id": "s0", "started_at": "2026-12-01T11:00:00Z"}]
    starts.append(BEING_CREATED | otherwise)
    said = after_capture("t", "s2", [row("valid", incarnation=2)], LATEST, starts)
    if promised:
        assert said == "captured as s2; run t again and it resumes from there"
    else:
        assert said == (
            "captured as s2; but incarnation 3 of t is being created without it on node n1: this snapshot is passed over "
            "once that one runs, or another start comes after it"
        )


def test_another_that_is_pinned_comes_first() -> None:
    said = after_capture("t", "s2", [row("valid")], [{"snapshot_id": "s1", "pinned": True}])
    assert said == "captured as s2; but t resumes from s1, which is pinned (`woodfrog unpin s1`)"


def test_what_came_too_late_is_named_with_what_counts() -> None:
    said = after_capture("t", "s2", [row("superseded", superseded_by=4)], [{"snapshot_id": "s9", "pinned": False}])
    assert (
        said
        == "captured as s2, too late: the start of incarnation 4 of t was decided without it; the next start of t resumes from s9; `woodfrog pin s2` goes back to this one"
    )


def test_what_could_not_be_stored_says_why() -> None:
    failed = row("failed", failure_cause="no room", failure_code="disk-full", failure_advice="Free some.")
    said = after_capture("t", "s2", [failed], [])
    assert (
        said == "captured as s2, and lost: no room (disk-full). Free some.; the next start of t starts from its image"
    )


def test_a_stop_without_a_snapshot_says_why_and_what_comes_next() -> None:
    said = after_refusal("t", "a process uses io_uring (io-uring). Remove it.", LATEST)
    assert said == (
        "no final snapshot: a process uses io_uring (io-uring). Remove it; the next start of t resumes from s2"
    )
