"""Where the new container's spec is not the upper bound of what a restored one may do: only where the cluster's policy says so.

No annotation can: whoever writes a pod's annotations also writes which privileges the pod may not have.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from woodfrog.protocol.facts import ContainerFacts, excesses
from woodfrog.protocol.ids import CheckpointKey


class PrivilegePolicy(msgspec.Struct, frozen=True):
    """Whether the new container bounds the privileges of a snapshot; the most specific setting holds."""

    default: bool = True
    namespaces: Mapping[str, bool] = {}
    ids: Mapping[tuple[str, str], bool] = {}
    """By namespace and id."""

    def bounds(self, key: CheckpointKey) -> bool:
        """Say whether the new container bounds what is restored for a key."""
        return self.ids.get((key.namespace, key.id), self.namespaces.get(key.namespace, self.default))


def lowered(taken_from: ContainerFacts, container: ContainerFacts) -> str:
    """Say what is taken from a snapshot's processes when it is restored into a container; empty if nothing."""
    said = [each.what for each in excesses(taken_from, container) if each.lowers]
    return f"lowered to what the new container allows: {'; '.join(said)}" if said else ""
