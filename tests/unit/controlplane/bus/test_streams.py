"""What the streams promise about what they confirm."""

from __future__ import annotations

from nats.js.api import PersistMode, StorageType

from controlplane.bus import streams
from woodfrog.protocol import subjects


def test_no_stream_but_audit_is_written_behind_since_nothing_else_can_be_filled_again_from_the_log() -> None:
    configurations = {one.name: one for one in streams._CONFIGURATIONS}
    behind = {name for name, one in configurations.items() if one.persist_mode is PersistMode.ASYNC}
    assert behind == {subjects.AUDIT_STREAM}
    assert {one.storage for one in configurations.values()} == {StorageType.FILE}
