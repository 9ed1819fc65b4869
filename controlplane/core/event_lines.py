"""A line of the process's log for each event that is recorded, at level debug: by its position, a line and the log are found from one another.

At other levels nothing is done for it: a control plane records a thousand events a second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import structlog

from controlplane.log.records import Recorded
from woodfrog.protocol.events import event_type
from woodfrog.service import logs

_log = structlog.get_logger(component="log")


def note(recorded: Sequence[Recorded]) -> None:
    """Write the lines."""
    if not logs.says(logging.DEBUG):
        return
    for one in recorded:
        event = one.event
        about = {
            "key": getattr(event, "key", None),
            "node": getattr(event, "node", None),
            "snapshot_id": getattr(event, "snapshot_id", None),
            "command_id": one.metadata.correlation,
        }
        with logs.about(position=one.position, **about):
            _log.debug("recorded", type=event_type(event), actor=one.metadata.actor, causation=one.metadata.causation)
