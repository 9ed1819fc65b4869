"""Which checkpoint ids a pod's containers will have, read off its declaration as the kubelet will read it.

The kubelet goes through a container's variables in their order and replaces ``$(NAME)`` by the value of a variable that came
before; ``$$`` stands for a dollar, and what it does not know it leaves as it is (kubelet_pods.go, makeEnvironmentVariables;
third_party/forked/golang/expansion). Fields of the pod may be values; ConfigMaps, Secrets and ``envFrom`` may be too, but are
not looked into here: an id that depends on them is unknown until its worker names it.

The Job controller puts ``JOB_COMPLETION_INDEX`` *behind* the container's own variables (job_controller's
addCompletionIndexEnvVariable), where the kubelet no longer replaces it in those before. Whoever writes
``train-$(JOB_COMPLETION_INDEX)`` means it nevertheless, so what is left over is replaced by what comes later, too.

Each variable may double the one before it, so that thirty of them make gigabytes of a pod of a kilobyte. An id has at most 253
characters: what grows beyond a budget cannot be part of one, and is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from controlplane.kube.models import Container, EnvVar, Pod

VARIABLE: Final = "CEDANA_CHECKPOINT"
VALUE_CHARS: Final = 16 << 10
"""How long a value may become by replacing references."""
_ALL_CHARS: Final = 64 << 10
"""How long all such values of a container may be together."""
_OF_A_MAP = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def checkpoint_ids(pod: Pod, variable: str = VARIABLE) -> dict[str, str]:
    """Give the id of each container that has one and whose id can be known, by the container's name."""
    found = {}
    for container in (*(pod.spec.containers or ()), *(pod.spec.init_containers or ())):
        value = _value(container, pod, variable)
        if value:
            found[container.name] = value
    return found


def ids_elsewhere(pod: Pod, variable: str = VARIABLE) -> bool:
    """Say whether a container has an id that its declaration does not hold: it comes from a Secret, a ConfigMap or the node."""
    for container in (*(pod.spec.containers or ()), *(pod.spec.init_containers or ())):
        if any(each.name == variable for each in container.env or ()):
            if _value(container, pod, variable) is None:
                return True
        elif container.env_from:
            return True
    return False


def expand(text: str, known: Mapping[str, str], *, escapes: bool = True) -> str | None:
    """Replace references to known variables, once and from left to right; ``None`` if it grows beyond :data:`VALUE_CHARS`.

    As the kubelet does; without ``escapes`` two dollars stay two, as the kubelet has been there before.
    """
    pieces: list[str] = []
    length, at, last = 0, 0, text.rfind(")")
    while (dollar := text.find("$", at)) >= 0:
        piece, end = "$", dollar + 1
        if text.startswith("(", end) and end < last:
            end = text.index(")", end) + 1
            piece = known.get(text[dollar + 2 : end - 1], text[dollar:end])
        elif text.startswith("$", end) and escapes:
            end += 1
        pieces += text[at:dollar], piece
        length += dollar - at + len(piece)
        if length > VALUE_CHARS:
            return None
        at = end
    return "".join((*pieces, text[at:])) if not pieces or length + len(text) - at <= VALUE_CHARS else None


def _value(container: Container, pod: Pod, variable: str) -> str | None:
    """Work a variable out; ``None`` if it is not there, or depends on what is not known here."""
    known: dict[str, str] = {}
    raw: str | None = None
    left = _ALL_CHARS
    for each in container.env or ():
        value = _declared(each, pod, known)
        if value is not None and "$" in (each.value or ""):
            value = value if len(value) <= left else None
            left -= len(value or "")
        if each.name == variable:
            raw = value
        if value is None:
            known.pop(each.name, None)
        else:
            known[each.name] = value
    if raw is None:
        return None
    value = expand(raw, {name: text for name, text in known.items() if name != variable}, escapes=False)
    return None if value is None or "$(" in value else value


def _declared(each: EnvVar, pod: Pod, before: Mapping[str, str]) -> str | None:
    if each.value is not None or each.value_from is None:
        return expand(each.value or "", before)
    if each.value_from.field_ref is None:
        return None
    path, meta = each.value_from.field_ref.field_path, pod.metadata
    plain = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
    }
    of_a_map = _OF_A_MAP.fullmatch(path)
    if of_a_map is not None:
        values = meta.labels if of_a_map[1] == "labels" else meta.annotations
        return (values or {}).get(of_a_map[2], "")
    return plain.get(path)
