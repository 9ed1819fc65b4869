"""The name of a pod where an id is meant: on a cluster, people know their pods, and the ids of its containers are in its manifest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from woodfrog.cli.context import cluster_of, go_on_in_pod, words_of_verb
from woodfrog.cli.kubectl import Kubectl, NotFoundError
from woodfrog.cli.pod_eligibility import ids_of
from woodfrog.protocol.failures import Failure, FailureError


class _Word(str):
    """A word of the command line, known by what it is and not by what it says: a parser hands on the very object."""

    __slots__ = ()


def go_on_with_ids(context: typer.Context, names: Sequence[str], namespace: str, state_dir: Path | None) -> None:
    """Where a cluster is asked and one of the names is a pod's, become the same verb there, with the ids of its containers.

    The names are the verb's argument ``names``.

    Raises:
        FailureError: ``cluster-away``, ``pod-not-protected``.
    """
    kubectl = cluster_of(state_dir)
    if kubectl is None:
        return
    ids_by_name = {name: _ids(kubectl, name, namespace) for name in names}
    if any(ids != (name,) for name, ids in ids_by_name.items()):
        verb, *words = words_of_verb(sys.argv)
        go_on_in_pod(kubectl, [verb, *_with_ids(context, words, ids_by_name)])


def _with_ids(context: typer.Context, words: Sequence[str], ids_by_name: dict[str, tuple[str, ...]]) -> list[str]:
    """Put ids in the place of names, and leave alone whatever else says the same, such as an option's value."""
    marked = [_Word(word) for word in words]
    values, _, _ = context.command.make_parser(context).parse_args(list(marked))
    names = {id(name) for name in values["names"]}
    return [each for word in marked for each in (ids_by_name[word] if id(word) in names else (str(word),))]


def _ids(kubectl: Kubectl, name: str, namespace: str) -> tuple[str, ...]:
    try:
        pod = kubectl.get("pod", name, "--namespace", namespace)
    except NotFoundError:
        return (name,)
    ids = ids_of(pod)
    if not ids:
        advice = "See `woodfrog check -f` for what its manifest lacks."
        raise FailureError(Failure("pod-not-protected", f"no container of {name} is protected", advice))
    return ids
