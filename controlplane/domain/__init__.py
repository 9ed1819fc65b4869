"""Decisions as pure functions: no I/O, no clock, no randomness; time is an argument, and everything else is a value.

One input at a time goes through :func:`decide`, the resulting events are recorded, and :func:`evolve` folds them into the
:class:`State` that the next decision sees. The same fold over the log gives the same state after a restart.
"""

from controlplane.domain.choose import choose
from controlplane.domain.decide import decide
from controlplane.domain.evolve import evolve
from controlplane.domain.handover import Asker, Wait
from controlplane.domain.inputs import (
    Answer,
    CheckpointAsked,
    Decision,
    ForgetAsked,
    ImportAsked,
    Input,
    JobActed,
    NodeHeard,
    NodeSeen,
    NodeSilent,
    PodSeen,
    Policy,
    ReportReceived,
    ResolveAsked,
    SnapshotAsked,
    Tick,
)
from controlplane.domain.retention import Keep, Retention
from controlplane.domain.schedule import Schedule
from controlplane.domain.state import (
    Cold,
    Incarnation,
    KeyState,
    NodeState,
    Pod,
    Restore,
    Snapshot,
    SnapshotStatus,
    State,
)

__all__ = [
    "Answer",
    "Asker",
    "CheckpointAsked",
    "Cold",
    "Decision",
    "ForgetAsked",
    "ImportAsked",
    "Incarnation",
    "Input",
    "JobActed",
    "Keep",
    "KeyState",
    "NodeHeard",
    "NodeSeen",
    "NodeSilent",
    "NodeState",
    "Pod",
    "PodSeen",
    "Policy",
    "ReportReceived",
    "ResolveAsked",
    "Restore",
    "Retention",
    "Schedule",
    "Snapshot",
    "SnapshotAsked",
    "SnapshotStatus",
    "State",
    "Tick",
    "Wait",
    "choose",
    "decide",
    "evolve",
]
