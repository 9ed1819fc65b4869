"""What people want in the simulated world: how long snapshots are kept, how often containers are dumped, what becomes of one snapshot."""

from __future__ import annotations

from random import Random

from controlplane.domain import Policy
from controlplane.domain.retention import Keep, Retention
from controlplane.domain.schedule import Schedule
from woodfrog.protocol.ids import CheckpointKey, SnapshotId
from woodfrog.protocol.requests import SnapshotRequest

HANDOVER_SECONDS = 20.0


def policy_of(chance: Random, keys: list[CheckpointKey]) -> Policy:
    """Draw a configuration: what it says at large, of a namespace and of an id may each be different, or nothing."""
    namespaces = sorted({key.namespace for key in keys})
    ids = [(key.namespace, key.id) for key in keys]
    return Policy(
        handover_seconds=HANDOVER_SECONDS,
        delete_seconds=chance.choice((6.0, 15.0)),
        retention=Retention(
            default=_keep(chance),
            namespaces={name: _keep(chance) for name in namespaces if chance.random() < 0.3},
            ids={name: _keep(chance) for name in ids if chance.random() < 0.3},
            grace_seconds=chance.choice((0.0, 3.0, 15.0)),
            unusable_seconds=chance.choice((4.0, 30.0)),
        ),
        schedule=Schedule(
            default_seconds=_interval_seconds(chance),
            namespaces={name: _interval_seconds(chance) for name in namespaces if chance.random() < 0.3},
            ids={name: _interval_seconds(chance) for name in ids if chance.random() < 0.3},
            dump_seconds=chance.choice((15.0, 40.0)),
        ),
    )


def quiet(policy: Policy) -> Policy:
    """Answer the same without any dump that nobody asked for, so that a world can come to rest."""
    return Policy(
        handover_seconds=policy.handover_seconds,
        delete_seconds=policy.delete_seconds,
        retention=policy.retention,
        schedule=Schedule(dump_seconds=policy.schedule.dump_seconds),
    )


def own_interval_seconds(chance: Random) -> float | None:
    """Draw what a container itself says about how often it is dumped."""
    return chance.choice((None, None, None, None, 0.0, 7.0))


def wish(chance: Random, known: list[tuple[str, CheckpointKey]]) -> SnapshotRequest:
    """Draw a wish about one of the latest snapshots, whether it makes sense or not."""
    name, key = chance.choice(known[-6:])
    return SnapshotRequest(
        cluster=key.cluster,
        namespace=key.namespace,
        snapshot_id=SnapshotId(name),
        wish=chance.choice(("pin", "pin", "pin", "unpin", "unpin", "invalidate", "retry", "delete")),
        force=chance.random() < 0.3,
    )


def _keep(chance: Random) -> Keep:
    last = chance.choice((None, 1, 2, 2, 3))
    seconds = chance.choice((None, None, None, 5.0, 20.0))
    ceiling_bytes = chance.choice((None, None, 3, 6))
    return Keep(last, seconds, ceiling_bytes) if chance.random() < 0.7 else Keep()


def _interval_seconds(chance: Random) -> float:
    return chance.choice((0.0, 0.0, 4.0, 16.0))
