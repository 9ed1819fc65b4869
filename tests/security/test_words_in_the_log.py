"""A log that cannot forget holds no words of tenants' programs: the messages they leave, the lines of tools that name their files."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from support.world import KEY, World

from controlplane.domain import PodSeen
from controlplane.domain.free_text import ELSEWHERE, LONGEST_SENTENCE, MOST_WARNINGS, for_the_log, word_of
from controlplane.log.admin import roles
from woodfrog.protocol import wire
from woodfrog.protocol.events import (
    CommandFinished,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    Outcome,
    PodContainerEnded,
    RestoreFailed,
    RestoreStage,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CommandId,
    ContainerId,
    IncarnationNumber,
    InvalidIdError,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.pods import Ended, EndedBecause, PodEvent, ProtectedContainer
from woodfrog.protocol.reports import Report

pytestmark = pytest.mark.timeout(30)

SECRET = "Traceback: postgres://admin:hunter2@db/prod"
FAILURE = Failure("criu-error", "CRIU could not dump", "Look at its log.", f"Error: can't open /data/{SECRET}")
ABOUT: dict[str, Any] = {"key": KEY, "incarnation": IncarnationNumber(1)}
EVENTS = [
    DumpFailed(**ABOUT, snapshot_id=SnapshotId("s"), node=NodeName("a"), stage=DumpStage.CAPTURE, failure=FAILURE),
    RestoreFailed(**ABOUT, snapshot_id=SnapshotId("s"), node=NodeName("a"), stage=RestoreStage.CRIU, failure=FAILURE),
    CommandFinished(**ABOUT, command_id=CommandId("c"), outcome=Outcome.FAILED, failure=FAILURE),
]


def report(event: Any) -> Report:
    return Report(uuid4(), NodeName("a"), WorkerId("w"), datetime.now(UTC), event)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_lines_of_tools_stay_on_the_node_unless_a_setting_says_otherwise(event: Any) -> None:
    kept = for_the_log(report(event), details=False)
    assert SECRET not in wire.encode(kept).decode()
    assert (kept.event.failure.code, kept.event.failure.cause) == (FAILURE.code, FAILURE.cause)  # type: ignore[union-attr]
    assert kept.event.failure.detail == ELSEWHERE  # type: ignore[union-attr]
    assert for_the_log(report(event), details=True).event == event
    again = for_the_log(kept, details=False)
    assert again == kept, "a report that is delivered again is the same"


def test_sentences_and_warnings_are_of_bounded_length() -> None:
    long = Failure("x", "y" * 100_000, "z" * 100_000)
    failed = for_the_log(report(replace(EVENTS[0], failure=long)), details=False).event
    assert len(failed.failure.cause) == len(failed.failure.advice) == LONGEST_SENTENCE  # type: ignore[union-attr]
    started = ContainerStarted(
        **ABOUT, node=NodeName("a"), container_id=ContainerId("c"), warnings=("w" * 10_000,) * 1000
    )
    kept = for_the_log(report(started), details=True).event
    assert len(kept.warnings) == MOST_WARNINGS  # type: ignore[union-attr]
    assert len(wire.encode(kept)) < 10_000


def ended(detail: str) -> list[Any]:
    world = World("a")
    told = PodEvent(
        version=1, cluster="lab", namespace="default", pod="p", uid="u", resource_version="1",
        containers=(ProtectedContainer("main", KEY.id, None),), at=datetime.now(UTC),
        happened=Ended(container="main", because=EndedBecause.ERROR, exit_code=137, signal=9, detail=detail),
    )  # fmt: skip
    return list(world.give(PodSeen(told)).events)


def test_of_a_containers_end_the_log_keeps_the_reason_the_exit_code_and_the_signal() -> None:
    (event,) = ended("OOMKilled")
    assert isinstance(event, PodContainerEnded)
    assert (event.detail, event.exit_code, event.signal) == ("OOMKilled", 137, 9)
    (event,) = ended(f"Error: {SECRET}")
    assert event.detail == ""


@pytest.mark.parametrize("text", ["", "two words", "a: b", "x" * 65, "new\nline", "hunter2!"])
def test_more_than_a_word_is_nobodys_reason(text: str) -> None:
    assert word_of(text) == ""


def test_a_reader_of_a_namespace_gets_views_of_its_own_and_a_name_of_its_own() -> None:
    written = list(roles.namespace_statements("team-a"))
    assert any("'team-a'" in each and "security_barrier" in each for each in written)
    assert not any("GRANT" in each and "public." in each for each in written)
    long = [next(iter(roles.namespace_statements("x" * 62 + end))) for end in "ab"]
    assert long[0] != long[1], "PostgreSQL would cut both to the same name"
    for bad in ("a'; DROP TABLE events; --", 'a"b', ""):
        with pytest.raises(InvalidIdError):
            list(roles.namespace_statements(bad))
