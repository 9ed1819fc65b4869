"""A snapshot that is brought from elsewhere is chosen like any other, and never at the cost of what the id did here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from support.world import KEY, NOON, World, types

from controlplane.bus import message_validation
from controlplane.domain import Decision, ImportAsked, Policy
from controlplane.domain.quotas import Quota, Quotas
from woodfrog.protocol import wire
from woodfrog.protocol.events import SnapshotImported
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import InvalidIdError, SnapshotId
from woodfrog.protocol.requests import ImportRequest, Noted, Refusal, RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(5)

GOLDEN = Path(__file__).parents[3] / "golden/v1"

REQUEST = ImportRequest(
    key=KEY,
    snapshot_id=SnapshotId("brought"),
    origin="lab-2/default/trainer/s7",
    manifest_digest="ab" * 32,
    raw_bytes=1000,
    stored_bytes=500,
    taken_at=NOON,
    taken_on=NodeFacts("x86_64"),
    taken_from=ContainerFacts(),
)


def bring(world: World, **changes: Any) -> Decision:
    return world.give(ImportAsked(replace(REQUEST, **changes), world.source()))


def code(decision: Decision) -> str:
    assert isinstance(decision.answer, Refusal)
    assert decision.events == ()
    return decision.answer.failure.code


def test_the_first_start_of_an_id_that_was_never_run_resumes_from_the_import() -> None:
    world = World("a")
    assert bring(world).answer == Noted(key=KEY, snapshot_id=SnapshotId("brought"))
    answer = world.ask("c1").answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.snapshot_id, answer.manifest_digest, answer.incarnation) == ("brought", "ab" * 32, 2)


def test_an_import_is_newer_than_what_the_id_did_before() -> None:
    world = World("a")
    world.run("c1", container=ContainerFacts(fresh="monday"))
    world.snapshot(1, "s1")
    world.ended(1, exit_code=0, stopped=False)
    assert isinstance(world.ask("c2").answer, StartCold), "its program has done its work"
    world.later(601)
    bring(world)
    answer = world.ask("c3").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "brought"


def test_what_the_next_start_stores_is_newer_than_the_import() -> None:
    world = World("a")
    bring(world)
    number = world.run("c1")
    world.snapshot(number, "s1")
    world.ended(number, exit_code=None)
    answer = world.ask("c2").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "s1"


def test_nothing_is_imported_while_a_container_of_the_id_runs_or_starts_or_is_being_stored() -> None:
    world = World("a")
    world.ask("c1")
    assert code(bring(world)) == "id-in-use"
    world.started(1)
    assert code(bring(world)) == "id-in-use"
    world.dump(1, "s1")
    world.captured(1, "s1")
    world.ended(1, exit_code=None)
    assert code(bring(world)) == "dump-in-flight"
    world.stored(1, "s1")
    assert types(bring(world)) == ["snapshot.imported"]


def test_a_lost_node_and_a_start_that_never_came_to_anything_do_not_hinder() -> None:
    world = World("a")
    world.run("c1")
    world.silent("a")
    assert types(bring(world)) == ["snapshot.imported"]
    world = World("a")
    world.ask("c1")
    world.later(601)
    assert types(bring(world)) == ["snapshot.imported"]


def test_a_question_beforehand_records_nothing_and_a_repetition_nothing_more() -> None:
    world = World("a")
    asked = bring(world, only_check=True, manifest_digest="")
    assert (asked.events, asked.answer) == ((), Noted(key=KEY, snapshot_id=SnapshotId("brought")))
    assert types(bring(world)) == ["snapshot.imported"]
    assert bring(world).events == ()
    assert code(bring(world, manifest_digest="cd" * 32)) == "snapshot-known"


def test_an_import_counts_against_the_namespaces_quotas() -> None:
    world = World("a", policy=Policy(quotas=Quotas(default=Quota(ids=0))))
    assert code(bring(world)) == "quota"
    world = World("a", policy=Policy(quotas=Quotas(default=Quota(bytes=400))))
    bring(world)
    assert code(bring(world, snapshot_id=SnapshotId("another"))) == "quota"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("snapshot_id", "../x"),
        ("origin", "only/three/parts"),
        ("origin", "a/b/c/\x1b[2J"),
        ("manifest_digest", ""),
        ("stored_bytes", -1),
        ("taken_at", NOON.replace(tzinfo=None)),
    ],
)
def test_a_request_with_what_may_not_be_is_refused_by_its_field(field: str, value: Any) -> None:
    assert message_validation.import_request(wire.encode(REQUEST)) == REQUEST
    with pytest.raises(
        (wire.MalformedMessageError, InvalidIdError, FailureError), match=field.split("_", maxsplit=1)[0]
    ):
        message_validation.import_request(wire.encode(replace(REQUEST, **{field: value})))


def texts(value: Any, *at: str | int) -> Iterator[tuple[str | int, ...]]:
    """Name every place of a text, however deep."""
    if isinstance(value, str):
        yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in pairs:
        yield from texts(each, *at, name)


def test_no_text_of_an_import_holds_a_nul_wherever_it_stands() -> None:
    golden = wire.decode((GOLDEN / "snapshot.imported.json").read_bytes(), SnapshotImported)
    request = wire.encode(replace(REQUEST, taken_on=golden.taken_on, taken_from=golden.taken_from))
    message_validation.import_request(request)
    places = [at for at in texts(msgspec.json.decode(request)) if {"taken_on", "taken_from"} & set(at)]
    assert len(places) > 10
    for at in places:
        changed = msgspec.json.decode(request)
        inner = changed
        for name in at[:-1]:
            inner = inner[name]
        inner[at[-1]] = "a\0b"
        with pytest.raises(wire.MalformedMessageError) as refused:
            message_validation.import_request(msgspec.json.encode(changed))
        assert "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in at) in str(refused.value), at
