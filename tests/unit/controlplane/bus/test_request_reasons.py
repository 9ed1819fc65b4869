"""A reason is kept in the log for ever and shown to people: it is bounded, and can be stored in every database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from support.world import KEY, NOON

from controlplane.bus import message_validation
from woodfrog.protocol import wire
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.requests import ForgetRequest, ImportRequest, SnapshotRequest

pytestmark = pytest.mark.timeout(5)

NAME = SnapshotId("s1")
IMPORT = ImportRequest(
    key=KEY,
    snapshot_id=NAME,
    origin="lab-2/default/trainer/s7",
    manifest_digest="ab" * 32,
    raw_bytes=1000,
    stored_bytes=500,
    taken_at=NOON,
    taken_on=NodeFacts(),
    taken_from=ContainerFacts(),
)
REQUESTS: list[tuple[SnapshotRequest | ForgetRequest | ImportRequest, Callable[[bytes], object]]] = [
    (
        SnapshotRequest("lab", "default", NAME, "pin", ""),
        lambda data: message_validation.request(data, SnapshotRequest),
    ),
    (ForgetRequest(KEY, ""), lambda data: message_validation.request(data, ForgetRequest)),
    (IMPORT, message_validation.import_request),
]


@pytest.mark.parametrize(("request_", "read"), REQUESTS, ids=["snapshot", "forget", "import"])
def test_a_reason_that_is_too_long_or_holds_a_nul_is_refused(
    request_: SnapshotRequest | ForgetRequest | ImportRequest, read: Callable[[bytes], object]
) -> None:
    for good in ("", "known to be good", "\x1b[31mred\n", "x" * 4000):
        said = replace(request_, because=good)
        assert read(wire.encode(said)) == said
    for bad in ("a\0b", "x" * 4001):
        with pytest.raises(wire.MalformedMessageError, match=r"\$\.because"):
            read(wire.encode(replace(request_, because=bad)))
