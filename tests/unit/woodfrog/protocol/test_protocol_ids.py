"""Which text may be an id, and that nothing else gets in."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from woodfrog.protocol.ids import CheckpointKey, InvalidIdError, check_id, event_id, new_snapshot_id

pytestmark = pytest.mark.timeout(5)


@pytest.mark.parametrize("good", ["a", "7", "train", "Train.2-b_3", "a..b", "a" * 253])
def test_letters_digits_and_inner_punctuation_make_an_id(good: str) -> None:
    assert check_id(good, "checkpoint id") == good


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("", "is empty"),
        ("x" * 254, "has 254 characters"),
        ("x" * 300, "has 300 characters"),
        ("a/b", "contains '/'"),
        ("/", "contains '/'"),
        ("..", "starts or ends with a punctuation mark"),
        (".", "starts or ends with a punctuation mark"),
        ("../etc", "contains '/'"),
        ("-a", "starts or ends with a punctuation mark"),
        ("a.", "starts or ends with a punctuation mark"),
        ("a b", "contains ' '"),
        ("a\0b", r"contains '\x00'"),
        ("a\n", r"contains '\n'"),
        ("a\x1b[31m", r"contains '\x1b'"),
        ("a\x7f", r"contains '\x7f'"),
        ("é", "contains 'é'"),
        ("٣", "contains '٣'"),
        ("a*", "contains '*'"),
        ("a>", "contains '>'"),
    ],
)
def test_anything_else_is_refused_and_the_message_names_the_field_and_the_rule(bad: str, problem: str) -> None:
    with pytest.raises(InvalidIdError) as refusal:
        check_id(bad, "checkpoint id")
    assert refusal.value.field == "checkpoint id"
    assert problem in str(refusal.value)
    assert str(refusal.value).startswith("checkpoint id ")
    assert "an id is 1 to 253 letters, digits" in str(refusal.value)


@pytest.mark.parametrize("bad", ["a\nb", "\x1b]0;owned\x07", "x" * 300])
def test_a_refusal_is_one_short_printable_line_whatever_was_refused(bad: str) -> None:
    with pytest.raises(InvalidIdError) as refusal:
        check_id(bad, "checkpoint id")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("parts", "field"),
    [(("a/b", "n", "i"), "cluster"), (("c", "", "i"), "namespace"), (("c", "n", ".."), "checkpoint id")],
)
def test_a_key_names_the_part_that_is_wrong(parts: tuple[str, str, str], field: str) -> None:
    with pytest.raises(InvalidIdError, match=f"^{field} "):
        CheckpointKey.checked(*parts)


def test_a_key_reads_as_a_path_of_its_parts() -> None:
    assert str(CheckpointKey.checked("lab", "default", "train.er")) == "lab/default/train.er"


def test_snapshot_ids_sort_by_the_second_of_the_dump_in_utc_and_never_repeat() -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    earlier = new_snapshot_id(noon)
    later = new_snapshot_id((noon + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-8))))
    assert re.fullmatch(r"20261123T120000Z-[0-9a-f]{8}", earlier)
    assert earlier < later
    assert new_snapshot_id(noon) != new_snapshot_id(noon)
    assert check_id(earlier, "snapshot id") == earlier


def test_an_event_id_is_the_same_for_the_same_source_and_ordinal_only() -> None:
    ids = {event_id(source, ordinal) for source in ("one", "two") for ordinal in range(3)}
    assert len(ids) == 6
    assert event_id("one", 1) in ids
    assert event_id("one", 1).version == 5


def test_event_ids_do_not_change_between_releases() -> None:
    assert str(event_id("report", 0)) == "3e9db874-0c6f-5959-a2d8-55afd6f42ce4"
