"""Everything that is said between processes survives the wire; commands are read strictly, events tolerantly."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from support.examples import example

from woodfrog.protocol import events, manifest, reports, requests, runtime_api, subjects, wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, NodeName

pytestmark = pytest.mark.timeout(5)

EVENTS = get_args(events.Event)
REPORTED = get_args(events.ReportedEvent)
REQUESTS = (requests.ResolveRequest, requests.CheckpointRequest, requests.SnapshotRequest, requests.QueryRequest)
COMMANDS = get_args(Command)
STRICT = (*COMMANDS, *get_args(runtime_api.LocalAsk))


def with_an_unknown_field(message: Any) -> bytes:
    return json.dumps({**json.loads(wire.encode(message)), "from_the_future": 1}).encode()


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
class TestEveryEvent:
    def test_it_survives_the_wire(self, kind: Any) -> None:
        event = example(kind)
        assert wire.decode(wire.encode(event), events.Event) == event

    def test_it_is_read_with_a_field_that_a_newer_writer_added(self, kind: Any) -> None:
        event = example(kind)
        assert wire.decode(with_an_unknown_field(event), events.Event) == event

    def test_it_is_read_without_the_fields_that_have_defaults(self, kind: Any) -> None:
        written = json.loads(wire.encode(example(kind)))
        required = {field.encode_name for field in msgspec.structs.fields(kind) if field.required} | {"type"}
        assert isinstance(wire.decode(json.dumps({n: written[n] for n in required}), events.Event), kind)

    def test_it_names_its_type_and_the_stream_of_its_key_or_node(self, kind: Any) -> None:
        event = example(kind)
        assert json.loads(wire.encode(event))["type"] == events.event_type(event)
        if isinstance(event, events.LogHeadSigned):
            owner = f"log/{event.cluster}"
        else:
            owner = f"checkpoint/{event.key}" if hasattr(event, "key") else f"node/{event.node}"
        assert events.stream_of(event) == owner

    def test_it_is_told_in_a_report_only_if_a_worker_may_say_it(self, kind: Any) -> None:
        report = {**json.loads(wire.encode(example(reports.Report))), "event": json.loads(wire.encode(example(kind)))}
        if kind in REPORTED:
            assert isinstance(wire.decode(json.dumps(report), reports.Report).event, kind)
        else:
            with pytest.raises(wire.MalformedMessageError, match=r"\$\.event"):
                wire.decode(json.dumps(report), reports.Report)

    def test_it_is_published_on_a_subject_of_its_own_kind(self, kind: Any) -> None:
        subject = subjects.audit(example(kind))
        assert f".{events.event_type(example(kind)).replace('.', '-')}." in subject


def test_no_two_events_have_the_same_type() -> None:
    assert len({events.event_type(example(kind)) for kind in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize(
    ("kind", "union"),
    [(reports.Heartbeat, reports.Heartbeat), (manifest.Manifest, manifest.Manifest)]
    + [(kind, kind) for kind in REQUESTS]
    + [(kind, Command) for kind in COMMANDS]
    + [(kind, requests.Resolution) for kind in get_args(requests.Resolution)]
    + [(kind, requests.CommandAccepted | requests.Refusal) for kind in (requests.CommandAccepted, requests.Refusal)]
    + [(kind, requests.Noted | requests.Refusal) for kind in (requests.Noted, requests.Refusal)]
    + [(kind, requests.Rows | requests.Refusal) for kind in (requests.Rows, requests.Refusal)]
    + [(kind, runtime_api.LocalAsk) for kind in get_args(runtime_api.LocalAsk)]
    + [(kind, runtime_api.LocalAnswer) for kind in get_args(runtime_api.LocalAnswer)],
    ids=lambda kind: getattr(kind, "__name__", "among its like"),
)
def test_every_other_message_survives_the_wire_among_its_like(kind: Any, union: Any) -> None:
    message = example(kind)
    assert wire.decode(wire.encode(message), union) == message


@pytest.mark.parametrize("kind", sorted(set(STRICT), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_what_asks_for_something_is_refused_if_it_asks_for_more_than_is_known(kind: Any) -> None:
    with pytest.raises(wire.MalformedMessageError, match="from_the_future"):
        wire.decode(with_an_unknown_field(example(kind)), kind)


def test_a_command_in_an_event_is_read_strictly_too() -> None:
    written = json.loads(wire.encode(example(events.CommandIssued)))
    written["command"]["with_gpu"] = True
    with pytest.raises(wire.MalformedMessageError, match="with_gpu"):
        wire.decode(json.dumps(written), events.Event)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "Input data was truncated"),
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"type":"snapshot.eaten"}', "snapshot.eaten"),
        ('{"type":"container.ended","key":{"cluster":"c","namespace":"n"}}', r"\$\.key"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_what_is_no_message_is_refused_and_the_fault_is_named(text: str | bytes, named: str) -> None:
    with pytest.raises(wire.MalformedMessageError, match=named):
        wire.decode(text, events.Event)


def test_times_are_written_in_utc_with_their_offset() -> None:
    assert json.loads(wire.encode(example(reports.Report)))["at"] == "2026-11-23T12:00:00.250000Z"


def test_a_failure_reads_as_cause_code_and_advice() -> None:
    failure = Failure("disk-full", "The spool has no room", "Free some.", detail="ENOSPC")
    assert str(FailureError(failure)) == "The spool has no room (disk-full). Free some."


class TestSubjects:
    @pytest.mark.parametrize(
        ("name", "token"),
        [
            ("node-1_a", "node-1_a"),
            ("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1%2Eec2%2Einternal"),
            ("*", "%2A"),
            (">", "%3E"),
            ("a b", "a%20b"),
            ("a/b", "a%2Fb"),
            ("~", "%7E"),
            ("100%", "100%25"),
            ("é", "%C3%A9"),
            ("a\r\nb", "a%0D%0Ab"),
        ],
    )
    def test_a_name_is_one_token_without_dots_wildcards_or_blanks(self, name: str, token: str) -> None:
        assert subjects.token(name) == token

    def test_two_names_never_share_a_subject(self) -> None:
        names = ["a.b", "a%2Eb", "a-b", "a_b", "a~b", "ab", "A.b"]
        assert len({subjects.commands(NodeName(name)) for name in names}) == len(names)

    @pytest.mark.parametrize(
        ("build", "pattern"),
        [
            (subjects.reports, subjects.REPORTS_ALL),
            (subjects.commands, subjects.COMMANDS_ALL),
            (subjects.heartbeats, subjects.HEARTBEATS_ALL),
        ],
    )
    def test_a_nodes_subjects_are_caught_by_the_streams_pattern_whatever_its_name(
        self, build: Any, pattern: str
    ) -> None:
        prefix = pattern.removesuffix("*")
        subject = build(NodeName("a.b *>c"))
        assert subject.startswith(prefix)
        assert "." not in subject.removeprefix(prefix)

    def test_a_consumers_name_holds_nothing_that_nats_forbids_in_one(self) -> None:
        assert not set(subjects.commands_consumer(NodeName("a.b *>/\\c"))) & set(".*> /\\\t\r\n")

    def test_an_event_of_a_key_is_published_under_its_type_and_each_part_of_its_key(self) -> None:
        key = CheckpointKey("lab", "team.a", "train.er")
        event = events.ColdStartChosen(key=key, incarnation=1, reason="first")
        assert subjects.audit(event) == "woodfrog.v1.audit.id.incarnation-cold-start-chosen.lab.team%2Ea.train%2Eer"

    def test_an_event_of_a_node_is_published_under_its_type_and_node(self) -> None:
        event = events.NodeReturned(node="a.b", worker_id="w")
        assert subjects.audit(event) == "woodfrog.v1.audit.node.node-returned.a%2Eb"


class TestPathsInManifests:
    @pytest.mark.parametrize("good", ["a", "a/b", "a/..b", "...", "with space", "a/.hidden"])
    def test_a_path_below_its_root_may_be_an_entry(self, good: str) -> None:
        assert manifest.entry_path_problem(good) is None

    @pytest.mark.parametrize("bad", ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", ".", "a//b", "a/", "a\0b"])
    def test_a_path_that_leaves_its_root_or_pretends_to_may_not(self, bad: str) -> None:
        assert manifest.entry_path_problem(bad)
