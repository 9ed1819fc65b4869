"""How much a namespace may hold: ids that the control plane knows, and bytes in the store.

A quota must not cost anybody their work. So an id that the log knows continues as before, its last dump included; what is refused is
more: an id that is new, whose container then starts from its image and without protection, and dumps that are asked for in between,
before anything is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from controlplane.domain.state import KeyState, State, Usage, namespace_of
from woodfrog.protocol.failures import QUOTA, Failure
from woodfrog.protocol.ids import CheckpointKey


class Quota(msgspec.Struct, frozen=True):
    """What one namespace may hold; ``None`` bounds nothing."""

    bytes: int | None = None
    ids: int | None = None


class Quotas(msgspec.Struct, frozen=True):
    """All quotas: each namespace has its own, or the default for itself."""

    default: Quota = Quota()
    namespaces: Mapping[str, Quota] = {}

    def of(self, key: CheckpointKey) -> Quota:
        """Return the quota of the key's namespace."""
        return self.namespaces.get(key.namespace, self.default)

    def reached(self, state: State) -> int:
        """Count the namespaces that have reached their quota."""
        total = 0
        for name, usage in state.usage.items():
            quota = self.namespaces.get(name.partition("/")[2], self.default)
            total += any(
                most is not None and has >= most for has, most in ((usage.bytes, quota.bytes), (usage.ids, quota.ids))
            )
        return total


def over_bytes(state: State, name: CheckpointKey, quotas: Quotas) -> Failure | None:
    """Say why the key's namespace may store nothing that is not needed, if so."""
    quota, usage = quotas.of(name), state.usage.get(namespace_of(name), Usage())
    if quota.bytes is None or usage.bytes < quota.bytes:
        return None
    return _failure(
        f"namespace {name.namespace} has {usage.bytes} bytes of snapshots, of {quota.bytes} that it may have"
    )


def no_new_id(state: State, name: CheckpointKey, quotas: Quotas) -> Failure | None:
    """Say why the key, if it is a new one, gets no protection."""
    if state.keys.get(name, KeyState()).incarnations:
        return None
    quota, usage = quotas.of(name), state.usage.get(namespace_of(name), Usage())
    if quota.ids is not None and usage.ids >= quota.ids:
        return _failure(f"namespace {name.namespace} has {usage.ids} checkpoint ids, of {quota.ids} that it may have")
    return over_bytes(state, name, quotas)


def _failure(cause: str) -> Failure:
    return Failure(
        code=QUOTA,
        cause=cause,
        advice="Delete snapshots, let unused ids go (forget_after), or raise the namespace's max_ids or max_bytes.",
    )
