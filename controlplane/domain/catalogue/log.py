"""What follows from the events of the log itself: nothing for any id."""

from __future__ import annotations

from typing import Any, Final

from controlplane.domain.catalogue.entry import Entry
from woodfrog.protocol.events.log import LogHeadSigned

ENTRIES: Final[tuple[Entry[Any], ...]] = (Entry(event=LogHeadSigned),)
