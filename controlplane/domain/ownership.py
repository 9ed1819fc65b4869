"""Whose pod may go on with whose memory: by default one of the same ServiceAccount and with the same kind of owner.

What a process holds is worth as much as its ServiceAccount: tokens, keys that were never in a Secret. Without this rule whoever may
create a pod in a namespace, under whatever account, gets the memory of any other's by its id. The kind of the owner (``Job``,
``ReplicaSet``, none) stops a hand-made pod from taking over what a controller runs. Both are what the Kubernetes API said when
the containers started; of snapshots from before that was recorded, and without Kubernetes, nothing is known, which speaks against nothing.

Only the cluster's policy loosens it. An annotation could not: whoever writes the pod writes its annotations.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey


class OwnershipPolicy(msgspec.Struct, frozen=True):
    """Whether a snapshot goes on only in a pod of the same ServiceAccount and kind of owner; the most specific setting holds."""

    default: bool = True
    namespaces: Mapping[str, bool] = {}
    ids: Mapping[tuple[str, str], bool] = {}
    """By namespace and id."""

    def same(self, key: CheckpointKey) -> bool:
        """Say whether they have to be the same for a key."""
        return self.ids.get((key.namespace, key.id), self.namespaces.get(key.namespace, self.default))


def stranger(taken_from: ContainerFacts, container: ContainerFacts) -> str | None:
    """Say why ``container`` is another's than the one that the snapshot was taken from; ``None`` if nothing known says so."""
    was, now = taken_from.service_account, container.service_account
    if was is not None and now is not None and was != now:
        return f"it was taken from a pod of ServiceAccount {was or 'default'}, the new one runs as {now or 'default'}"
    was, now = taken_from.owner_kind, container.owner_kind
    if was is not None and now is not None and was != now:
        return f"it was taken from a pod of {_owner(was)}, the new one is of {_owner(now)}"
    return None


def _owner(kind: str) -> str:
    return f"a {kind}" if kind else "nobody"
