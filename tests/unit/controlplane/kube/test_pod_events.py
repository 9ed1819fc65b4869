"""The contract of PODS: written as its golden files say, and as its page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace
from support.examples import example
from support.golden import FOLDER

from woodfrog.protocol import wire
from woodfrog.protocol.pods import (
    POD_EVENT_VERSION,
    Ended,
    EndedBecause,
    Happened,
    PodEvent,
    ProtectedContainer,
    Why,
    kind_of,
)

pytestmark = pytest.mark.timeout(5)

PAGE = (Path(__file__).parents[4] / "docs/reference/pod-events.md").read_text()
EXAMPLES = {kind_of(one): one for one in map(example, get_args(Happened))}


def written(kind: str) -> PodEvent:
    event: PodEvent = example(PodEvent)
    return replace(event, happened=EXAMPLES[kind])


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_message_is_written_as_its_golden_file_says(kind: str) -> None:
    path = FOLDER / f"pods-v{POD_EVENT_VERSION}" / f"{kind}.json"
    assert wire.encode(written(kind)).decode() + "\n" == path.read_text(), (
        "others publish this, too: take a new version"
    )
    assert wire.decode(path.read_bytes(), PodEvent) == written(kind)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_page_names_every_kind_with_every_field(kind: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |"))
    fields = re.findall(r"`(\w+)`", row.split("|")[2])
    assert fields == list(EXAMPLES[kind].__struct_fields__)


@pytest.mark.parametrize(
    "word", [*Why, *EndedBecause, *PodEvent.__struct_fields__, *ProtectedContainer.__struct_fields__]
)
def test_the_page_names_every_field_and_every_reason(word: str) -> None:
    assert f"`{word}`" in PAGE


def test_the_example_on_the_page_is_one() -> None:
    (found,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    event: PodEvent = wire.decode(found, PodEvent)
    assert event.keys()["main"].id == "train"


def test_what_is_missing_or_wrong_is_refused_by_name() -> None:
    data = json.loads(wire.encode(written("deleted")))
    for field in ("version", "cluster", "namespace", "pod", "uid", "containers", "at", "happened"):
        with pytest.raises(wire.MalformedMessageError, match=field):
            wire.decode(json.dumps({name: value for name, value in data.items() if name != field}), PodEvent)


def test_two_containers_that_end_in_one_pod_are_two_things_that_happened() -> None:
    event = written("container-ended")
    one, two = (
        replace(event, happened=Ended(container="a", container_id=c, because=EndedBecause.ERROR, exit_code=1))
        for c in "xy"
    )
    assert one.source != two.source
    assert one.message_id != two.message_id
