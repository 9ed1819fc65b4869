"""Old forms of events are read as today's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.log.upcast import UPCASTS, UnreadableEventError, Upcasts
from woodfrog.protocol.events import SCHEMA_VERSION, ColdStartChosen, ContainerEnded
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName

pytestmark = pytest.mark.timeout(5)

KEY = CheckpointKey("local", "default", "train-7")
ONE = IncarnationNumber(1)


def text(**fields: Any) -> str:
    base = {"key": {"cluster": "local", "namespace": "default", "id": "train-7"}, "incarnation": 1}
    return msgspec.json.encode(base | fields).decode()


def test_an_event_of_today_is_read_as_it_is() -> None:
    event = UPCASTS.read("x", SCHEMA_VERSION, text(type="incarnation.cold-start-chosen", reason="none yet"))
    assert event == ColdStartChosen(key=KEY, incarnation=ONE, reason="none yet")


def test_an_old_event_takes_every_step_between_its_version_and_todays() -> None:
    def split_where(data: dict[str, Any]) -> dict[str, Any]:
        node, _, container_id = data.pop("where").partition("/")
        return data | {"node": node, "container_id": container_id}

    def rename_code(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"exit_code": data.pop("code")}

    upcasts = Upcasts({("container.ended", 1): split_where, ("container.ended", 2): rename_code}, current=3)
    ended = ContainerEnded(
        key=KEY, incarnation=ONE, node=NodeName("node-a"), container_id=ContainerId("c1"), exit_code=143
    )
    forms = {
        1: text(type="container.ended", where="node-a/c1", code=143),
        2: text(type="container.ended", node="node-a", container_id="c1", code=143),
        3: text(type="container.ended", node="node-a", container_id="c1", exit_code=143),
    }
    assert [upcasts.read("container.ended", version, data) for version, data in forms.items()] == [ended] * 3


def test_a_type_without_a_step_is_the_same_in_the_next_version() -> None:
    upcasts = Upcasts({("container.ended", 1): dict}, current=2)
    data = text(type="incarnation.cold-start-chosen", reason="none yet")
    assert upcasts.read("incarnation.cold-start-chosen", 1, data) == ColdStartChosen(
        key=KEY, incarnation=ONE, reason="none yet"
    )


def test_fields_that_a_newer_writer_added_are_ignored() -> None:
    data = text(type="incarnation.cold-start-chosen", reason="none yet", colour="green")
    assert isinstance(UPCASTS.read("incarnation.cold-start-chosen", SCHEMA_VERSION + 1, data), ColdStartChosen)


@pytest.mark.parametrize(
    "data", ["{", "{}", text(type="snapshot.teleported"), text(type="incarnation.cold-start-chosen")]
)
def test_what_is_no_event_is_named(data: str) -> None:
    with pytest.raises(UnreadableEventError, match=r"incarnation\.cold-start-chosen, version 1"):
        UPCASTS.read("incarnation.cold-start-chosen", 1, data)
