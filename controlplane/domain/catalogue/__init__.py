"""The catalogue of events: what each means to the control plane, by its type.

A module for each subject, as in :mod:`woodfrog.protocol.events`. An event without an entry is one that a newer release wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controlplane.domain.catalogue import commands, dumps, log, nodes, pods, snapshots, starts
from controlplane.domain.catalogue.entry import Entry

ENTRIES: Final[Mapping[type, Entry[Any]]] = {
    entry.event: entry
    for subject in (nodes, starts, dumps, snapshots, commands, pods, log)
    for entry in subject.ENTRIES
}
