"""How long storing a capture is tried: what is lost with it decides, not how often it failed.

The processes of a final dump are dead, so its capture is all that is left of them, and it waits for the store as long as that
takes. So does the newest capture of an id whose container runs on: should that one end without a dump, it is the latest there
is. Of an older one nothing is lost, because a newer one is there already.
"""

from __future__ import annotations

from typing import Final

from nodeworker.domain.common_failures import DISK_FULL
from woodfrog.protocol.failures import SPOOL_CORRUPT

HOPELESS: Final = frozenset({"spool-lost", SPOOL_CORRUPT, "capture-unfit"})
"""Failures that are the same at the next try."""


def is_stores(code: str) -> bool:
    """Say whether it is the store that a failure speaks of."""
    return code.startswith("store-") or code == DISK_FULL


def goes_on(code: str, *, final: bool, newest: bool, tries_left: int) -> bool:
    """Say whether storing is tried again after it failed with ``code``."""
    if code in HOPELESS:
        return False
    return final or (newest and is_stores(code)) or tries_left > 0
