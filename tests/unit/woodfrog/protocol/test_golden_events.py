"""Events are written as the golden files of this version say, and those of every version can be read."""

from __future__ import annotations

import json

import pytest
from support.golden import FOLDER, path_of, today

from controlplane.domain import State, evolve
from controlplane.log.upcast import UPCASTS
from woodfrog.protocol import wire
from woodfrog.protocol.events import SCHEMA_VERSION, Event, UnknownEvent, event_type

pytestmark = pytest.mark.timeout(5)

TODAY = today()
FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.glob("v*/*.json"))
NEXT = "Raise SCHEMA_VERSION, add an upcast for the old form and write new golden files; see tests/support/golden.py."


@pytest.mark.parametrize("name", TODAY)
def test_an_event_is_written_as_its_golden_file_says(name: str) -> None:
    path = path_of(SCHEMA_VERSION, name)
    assert path.exists(), f"{name} has no golden file of version {SCHEMA_VERSION}"
    assert wire.encode(TODAY[name]).decode() + "\n" == path.read_text(), f"{name} is written in another way. {NEXT}"


def test_there_is_no_golden_file_of_a_type_that_is_gone() -> None:
    assert {path.stem for path in FILES if path.parent.name == f"v{SCHEMA_VERSION}"} == set(TODAY), NEXT


def test_every_version_up_to_todays_has_files() -> None:
    assert {path.parent.name for path in FILES} == {f"v{version}" for version in range(1, SCHEMA_VERSION + 1)}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_any_version_wrote_is_read_and_folded(file: object) -> None:
    path = FOLDER / str(file)
    written, version = path.read_text(), int(path.parent.name[1:])
    event = UPCASTS.read(json.loads(written)["type"], version, written)
    assert isinstance(event, Event)
    if version == SCHEMA_VERSION:
        assert event == TODAY[path.stem]
    evolve(State(), event, TODAY["command.issued.dump"].command.issued_at)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TODAY)
def test_a_field_that_a_newer_writer_added_is_ignored(name: str) -> None:
    data = json.loads(wire.encode(TODAY[name])) | {"from_the_future": {"deep": [1]}}
    assert UPCASTS.read(data["type"], SCHEMA_VERSION + 1, json.dumps(data)) == TODAY[name]


def test_a_type_that_a_newer_writer_took_is_passed_on_as_it_is() -> None:
    data = '{"type":"snapshot.teleported","key":{"cluster":"l","namespace":"n","id":"i"},"to":"mars"}'
    event = UPCASTS.read("snapshot.teleported", 7, data, "checkpoint/l/n/i")
    assert event == UnknownEvent("snapshot.teleported", "checkpoint/l/n/i", data)
    assert event_type(event) == "snapshot.teleported"


@pytest.mark.parametrize("change", [{"kind": "verify"}, {"with_gpu": True}])
def test_a_command_that_a_newer_writer_gave_is_passed_over_and_not_half_understood(change: dict[str, object]) -> None:
    data = json.loads(wire.encode(TODAY["command.issued.dump"]))
    data["command"] |= change
    assert isinstance(UPCASTS.read("command.issued", SCHEMA_VERSION, json.dumps(data)), UnknownEvent)


def test_an_event_of_the_future_changes_nothing_that_is_known() -> None:
    state = State()
    evolve(state, UnknownEvent("snapshot.teleported", "checkpoint/l/n/i", "{}"), TODAY["command.issued.dump"].command.issued_at)  # type: ignore[union-attr]  # fmt: skip
    assert state == State()
