"""Which variables of a container, or its command, changed since the snapshot: its process goes on with the old ones, and nobody would see that.

A restored process has the environment that it was started with. Whoever rotates a Secret that stands in a variable and starts the pod
anew has an old password in a new pod. The values themselves are written down nowhere: for each variable a snapshot's manifest holds
an HMAC with a random key of its own, so that equal values in two snapshots look different. The key lies beside them, because the
manifest lies beside the process's memory, in which the values stand anyway; neither comes into the log, where only the *names* of
variables that changed are told.

What changes with every pod by its nature says nothing and is left out: the host's name, addresses, and whatever names the pod or the
node; the variables by which Kubernetes describes Services (pkg/kubelet/envvars).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

from woodfrog.protocol.manifest import EnvironmentMarks

_OF_EVERY_POD: Final = frozenset(
    {"HOSTNAME", "POD_IP", "POD_IPS", "HOST_IP", "HOST_IPS", "NODE_IP", "CEDANA_CHECKPOINT", "NVIDIA_VISIBLE_DEVICES"}
)
_OF_SERVICES: Final = re.compile(
    r"KUBERNETES_.*|.*_SERVICE_(HOST|PORT(_.*)?)|.*_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?", re.ASCII
)
_COMMAND: Final = "the container's command"
"""Stands among the variables: no variable has such a name."""
_MOST: Final = 1000
_DIGEST_DIGITS: Final = 32
_SHOWN: Final = 5
_LONG_NAME: Final = 6
"""From so many characters on, a name that stands in a value is no accident."""


def declared(environment: Mapping[str, str], command: Iterable[str]) -> dict[str, str]:
    """Put a container's command beside its variables: a restored process goes on with the old one as well."""
    return {_COMMAND: "\0".join(command), **environment}


def marks(environment: Mapping[str, str], own_names: Iterable[str | None], salt: bytes) -> EnvironmentMarks:
    """Mark the variables of a container; ``own_names`` are its pod's and node's, ``salt`` is random and used once."""
    kept = _telling(environment, own_names)
    return EnvironmentMarks(salt.hex(), {name: _digest(salt, name, value) for name, value in kept.items()})


def changed(before: EnvironmentMarks, environment: Mapping[str, str], own_names: Iterable[str | None]) -> list[str]:
    """Name the variables that have another value than when the marks were made."""
    try:
        salt = bytes.fromhex(before.salt)
    except ValueError:
        return []
    return [
        name
        for name, value in _telling(environment, own_names).items()
        if name in before.digests and not hmac.compare_digest(before.digests[name], _digest(salt, name, value))
    ]


def warning(names: list[str]) -> tuple[str, ...]:
    """Word what changed, for the pod's Event and ``woodfrog why``; nothing if nothing did."""
    if not names:
        return ()
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more variables" if len(names) > _SHOWN else "")
    values = "value" if len(names) == 1 else "values"
    return (f"{shown} changed since the snapshot; the process has the old {values}",)


def _telling(environment: Mapping[str, str], own_names: Iterable[str | None]) -> dict[str, str]:
    own = [name for name in own_names if name]
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OF_EVERY_POD
        and not _OF_SERVICES.fullmatch(name)
        and name.isprintable()
        and not any(each == value or (len(each) >= _LONG_NAME and each in value) for each in own)
    }
    return dict(list(kept.items())[:_MOST])


def _digest(salt: bytes, name: str, value: str) -> str:
    said = f"{name}={value}".encode(errors="surrogatepass")
    return hmac.new(salt, said, hashlib.sha256).hexdigest()[:_DIGEST_DIGITS]
