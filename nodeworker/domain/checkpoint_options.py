"""What a container's owner wishes, by its pod's annotations: what travels, how much, how often, and what a stop signal means.

The node worker sees them in the live bundle's config.json. A word that cannot be meant is refused at ``create``, where
``kubectl describe pod`` shows it: at the dump, weeks later, nobody would be looking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from nodeworker.domain import hooks
from nodeworker.domain.hooks import Hook
from nodeworker.domain.rehearsal import Policy
from woodfrog.protocol.durations import InvalidAmountError, parse_bytes, parse_interval, parse_seconds
from woodfrog.protocol.facts import FRESH_CHARS
from woodfrog.protocol.failures import Failure

INTERVAL: Final = "woodfrog.io/interval"
VOLUMES: Final = "woodfrog.io/volumes"
VOLUMES_LIMIT: Final = "woodfrog.io/volumes-limit"
FREEZE_LIMIT: Final = "woodfrog.io/freeze-limit"
SHM: Final = "woodfrog.io/shm"
RESTORE_LIMIT: Final = "woodfrog.io/restore-limit"
ON_STOP: Final = "woodfrog.io/on-stop"
REQUIRE_RESTORE: Final = "woodfrog.io/require-restore"
FRESH: Final = "woodfrog.io/fresh"
IO_URING: Final = "woodfrog.io/io-uring"
VOLUME_CHANGES: Final = "woodfrog.io/volume-changes"
REHEARSE: Final = "woodfrog.io/rehearse"
BEFORE_DUMP: Final = "woodfrog.io/before-dump"
AFTER_RESTORE: Final = "woodfrog.io/after-restore"
HOOK_LIMIT: Final = "woodfrog.io/hook-limit"
ANNOTATIONS: Final = (
    INTERVAL,
    VOLUMES,
    VOLUMES_LIMIT,
    FREEZE_LIMIT,
    RESTORE_LIMIT,
    SHM,
    ON_STOP,
    REQUIRE_RESTORE,
    FRESH,
    IO_URING,
    VOLUME_CHANGES,
    REHEARSE,
    BEFORE_DUMP,
    AFTER_RESTORE,
    HOOK_LIMIT,
)
"""Every annotation that a worker reads; docs/reference/annotations.md explains them, and a test compares."""
_FRESH: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{FRESH_CHARS}}}", re.ASCII)
DEFAULT_VOLUMES_LIMIT_BYTES: Final = 10 << 30


class InvalidWishError(ValueError):
    """An annotation that cannot be meant."""

    def __init__(self, annotation: str, problem: str) -> None:
        self.annotation = annotation
        super().__init__(f"invalid annotation {annotation}: {problem}")


class CheckpointOptions(msgspec.Struct, frozen=True):
    """The annotations, read."""

    interval_seconds: float | None = None
    volumes: frozenset[str] | None = None
    """Names of the emptyDirs that travel; None for all."""
    volumes_limit_bytes: int = DEFAULT_VOLUMES_LIMIT_BYTES
    freeze_limit_seconds: float | None = None
    """How long the container may stand still for a snapshot after which it runs on; None for what the node allows."""
    restore_limit_seconds: float | None = None
    """How long a restore may take before another way to start is sought; None for what the node allows."""
    shm: bool = True
    dump_on_stop: bool = True
    require_restore: bool = False
    fresh: str = ""
    """That the container is to start without its past, once for each text."""
    io_uring: bool = False
    """Whether the container may use io_uring, which nothing can dump."""
    ignore_volume_changes: bool = False
    """Whether it is restored although files on its volumes are not what they were at the dump."""
    rehearse: Policy | None = None
    """Which snapshots are rehearsed; None for what the node does."""
    before_dump: Hook | None = None
    after_restore: Hook | None = None
    hook_limit_seconds: float = hooks.DEFAULT_SECONDS

    def takes_volume(self, name: str) -> bool:
        """Say whether the emptyDir of this name travels."""
        return self.volumes is None or name in self.volumes

    def objection_to_cold(self, unusable: int, reason: str) -> Failure | None:
        """Say that the owner does not want a cold start while there are ``unusable`` snapshots, or ``None``."""
        if not self.require_restore or not unusable:
            return None
        none = "its one snapshot cannot" if unusable == 1 else f"none of its {unusable} snapshots can"
        return Failure(
            "restore-required",
            f"the container must not start from its image, and {none} be resumed from: {reason}",
            f"Remove what is in the way, or the snapshots (`woodfrog delete`), or the annotation {REQUIRE_RESTORE}.",
        )


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations that a container's environment spells: ``WOODFROG_ON_STOP`` for ``woodfrog.io/on-stop``.

    For engines that hand on no annotations, as Docker before 25.0.
    """
    return {name: environment[variable] for name in ANNOTATIONS if (variable := variable_of(name)) in environment}


def variable_of(annotation: str) -> str:
    """Return the variable that stands for an annotation."""
    return f"WOODFROG_{annotation.partition('/')[2].replace('-', '_').upper()}"


def read(annotations: Mapping[str, str]) -> CheckpointOptions:
    """Read the annotations of a pod; others are none of ours.

    Raises:
        InvalidWishError: naming the annotation and what it may say.
    """
    interval = annotations.get(INTERVAL)
    limit = annotations.get(VOLUMES_LIMIT)
    return CheckpointOptions(
        interval_seconds=None if interval is None else _amount(INTERVAL, interval),
        volumes=_volumes(annotations.get(VOLUMES, "all")),
        volumes_limit_bytes=DEFAULT_VOLUMES_LIMIT_BYTES if limit is None else round(_amount(VOLUMES_LIMIT, limit)),
        freeze_limit_seconds=None
        if (freeze := annotations.get(FREEZE_LIMIT)) is None
        else _amount(FREEZE_LIMIT, freeze),
        restore_limit_seconds=None
        if (restore := annotations.get(RESTORE_LIMIT)) is None
        else _amount(RESTORE_LIMIT, restore),
        shm=_word(annotations, SHM, "on", "off"),
        dump_on_stop=_word(annotations, ON_STOP, "dump", "ignore"),
        require_restore=not _word(annotations, REQUIRE_RESTORE, "false", "true"),
        fresh=_fresh(annotations.get(FRESH)),
        io_uring=not _word(annotations, IO_URING, "deny", "allow"),
        ignore_volume_changes=not _word(annotations, VOLUME_CHANGES, "refuse", "ignore"),
        rehearse=None if (rehearse := annotations.get(REHEARSE)) is None else _policy(rehearse),
        before_dump=_hook(annotations, BEFORE_DUMP),
        after_restore=_hook(annotations, AFTER_RESTORE),
        hook_limit_seconds=_hook_limit(annotations.get(HOOK_LIMIT)),
    )


_AMOUNTS: Final[Mapping[str, Callable[[str], float]]] = {
    INTERVAL: parse_interval,
    FREEZE_LIMIT: parse_seconds,
    RESTORE_LIMIT: parse_seconds,
    HOOK_LIMIT: parse_seconds,
}


def _amount(name: str, text: str) -> float:
    try:
        return _AMOUNTS.get(name, parse_bytes)(text)
    except InvalidAmountError as problem:
        raise InvalidWishError(name, str(problem)) from problem


def _policy(text: str) -> Policy:
    try:
        return Policy(text)
    except ValueError as problem:
        raise InvalidWishError(REHEARSE, f"{text[:60]!r} is not `first`, `always` or `off`") from problem


def _word(annotations: Mapping[str, str], name: str, default: str, other: str) -> bool:
    """Say whether a choice of two is the default one."""
    text = annotations.get(name, default)
    if text not in {default, other}:
        raise InvalidWishError(name, f"{text[:60]!r} is neither `{default}` nor `{other}`")
    return text == default


def _fresh(text: str | None) -> str:
    if text is not None and not _FRESH.fullmatch(text):
        problem = f"{text[:60]!r} is not 1 to {FRESH_CHARS} letters, digits, '.', '_', ':' and '-'"
        raise InvalidWishError(FRESH, problem)
    return text or ""


def _hook(annotations: Mapping[str, str], name: str) -> Hook | None:
    if name not in annotations:
        return None
    try:
        return hooks.parse(annotations[name])
    except ValueError as problem:
        raise InvalidWishError(name, str(problem)) from problem


def _hook_limit(text: str | None) -> float:
    if text is None:
        return hooks.DEFAULT_SECONDS
    seconds = _amount(HOOK_LIMIT, text)
    if not 0 < seconds <= hooks.MOST_SECONDS:
        raise InvalidWishError(HOOK_LIMIT, f"{text[:60]!r} is not a time of up to {hooks.MOST_SECONDS:g}s")
    return seconds


def _volumes(text: str) -> frozenset[str] | None:
    if text == "all":
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InvalidWishError(
            VOLUMES, f"{text[:60]!r} is neither `all`, `none` nor names of volumes with commas between"
        )
    return frozenset() if names == ["none"] else frozenset(names)
