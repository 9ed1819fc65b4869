"""The policy file: what is kept for how long, how often containers are dumped, and whose privileges hold. TOML, checked strictly.

A setting that is misspelt and silently ignored would be found out when the snapshots are gone, so every table and field that is
not known is refused, and the message names it. ``docs/how-to/keep-snapshots.md`` is the manual.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from controlplane.domain.id_expiry import IdExpiry
from controlplane.domain.ownership import OwnershipPolicy
from controlplane.domain.privilege_policy import PrivilegePolicy
from controlplane.domain.quotas import Quota, Quotas
from controlplane.domain.retention import Keep, Retention
from controlplane.domain.schedule import Schedule
from woodfrog.protocol.durations import InvalidAmountError, parse_bytes, parse_interval, parse_seconds
from woodfrog.protocol.ids import InvalidIdError, check_id

_OF_THE_SNAPSHOT = "snapshot"
_SAME_OWNER = "same"


_Name = TypeVar("_Name")


class InvalidPolicyError(ValueError):
    """The policy file cannot be read, or says something that cannot be meant; the message names the field."""


class _Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keep_last: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep_for: str | None = None
    keep_bytes: str | None = None
    interval: str | None = None
    interval_min: str | None = None
    forget_after: str | None = None
    max_bytes: str | None = None
    max_ids: Annotated[int, msgspec.Meta(ge=0)] | None = None
    privileges: Literal["new-container", "snapshot"] | None = None
    owner: Literal["same", "any"] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    grace: str | None = None
    keep_unusable_for: str | None = None
    default: _Rules = _Rules()
    namespaces: dict[str, _Rules] = {}
    ids: dict[str, _Rules] = {}


class Policies(msgspec.Struct, frozen=True):
    """What the file says."""

    retention: Retention = Retention()
    schedule: Schedule = Schedule()
    privileges: PrivilegePolicy = PrivilegePolicy()
    forgetting: IdExpiry = IdExpiry()
    quotas: Quotas = Quotas()
    ownership: OwnershipPolicy = OwnershipPolicy()


def read_policies(path: str) -> Policies:
    """Read the policy file.

    Raises:
        InvalidPolicyError: naming the file, and the field that is wrong.
    """
    try:
        said = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), _File)
        return _policies(said)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, _FieldError) as problem:
        raise InvalidPolicyError(f"the policy file {path} cannot be used: {problem}") from problem


class _FieldError(ValueError):
    def __init__(self, field: str, problem: object) -> None:
        super().__init__(f"{problem} - at `$.{field}`")


def _policies(said: _File) -> Policies:
    ids = {_id_of(name): (f'ids."{name}"', rules) for name, rules in said.ids.items()}
    namespaces = {_namespace_of(name): (f"namespaces.{name}", rules) for name, rules in said.namespaces.items()}
    standard = Retention()
    interval_seconds = {name: _interval_seconds(*rules) for name, rules in namespaces.items()}
    id_interval_seconds = {name: _interval_seconds(*rules) for name, rules in ids.items()}
    return Policies(
        Retention(
            default=_keep("default", said.default),
            namespaces={name: _keep(*rules) for name, rules in namespaces.items()},
            ids={name: _keep(*rules) for name, rules in ids.items()},
            grace_seconds=_span("grace", said.grace, standard.grace_seconds),
            unusable_seconds=_span("keep_unusable_for", said.keep_unusable_for, standard.unusable_seconds),
        ),
        Schedule(
            default_seconds=_interval_seconds("default", said.default) or 0.0,
            namespaces={name: seconds for name, seconds in interval_seconds.items() if seconds is not None},
            ids={name: seconds for name, seconds in id_interval_seconds.items() if seconds is not None},
            default_floor_seconds=_floor_seconds("default", said.default) or 0.0,
            namespace_floors=_said({name: _floor_seconds(*rules) for name, rules in namespaces.items()}),
        ),
        PrivilegePolicy(
            default=said.default.privileges != _OF_THE_SNAPSHOT,
            namespaces={
                name: rules.privileges != _OF_THE_SNAPSHOT
                for name, (_, rules) in namespaces.items()
                if rules.privileges
            },
            ids={name: rules.privileges != _OF_THE_SNAPSHOT for name, (_, rules) in ids.items() if rules.privileges},
        ),
        IdExpiry(
            default_seconds=_forget_seconds("default", said.default),
            namespaces=_said({name: _forget_seconds(*rules) for name, rules in namespaces.items()}),
            ids=_said({name: _forget_seconds(*rules) for name, rules in ids.items()}),
        ),
        _quotas(said.default, namespaces, list(ids.values())),
        OwnershipPolicy(
            default=said.default.owner in {None, _SAME_OWNER},
            namespaces={
                name: rules.owner == _SAME_OWNER for name, (_, rules) in namespaces.items() if rules.owner is not None
            },
            ids={name: rules.owner == _SAME_OWNER for name, (_, rules) in ids.items() if rules.owner is not None},
        ),
    )


def _said(settings: dict[_Name, float | None]) -> dict[_Name, float]:
    return {name: value for name, value in settings.items() if value is not None}


def _quotas(default: _Rules, namespaces: dict[str, tuple[str, _Rules]], ids: list[tuple[str, _Rules]]) -> Quotas:
    for table, rules in ids:
        for field in ("max_bytes", "max_ids", "interval_min"):
            if getattr(rules, field) is not None:
                raise _FieldError(f"{table}.{field}", "this bounds a namespace, not one id")
    return Quotas(
        default=_quota("default", default, Quota()),
        namespaces={
            name: _quota(table, rules, _quota("default", default, Quota()))
            for name, (table, rules) in namespaces.items()
        },
    )


def _quota(table: str, rules: _Rules, otherwise: Quota) -> Quota:
    try:
        most_bytes = otherwise.bytes if rules.max_bytes is None else parse_bytes(rules.max_bytes)
    except InvalidAmountError as problem:
        raise _FieldError(f"{table}.max_bytes", problem) from problem
    return Quota(bytes=most_bytes, ids=otherwise.ids if rules.max_ids is None else rules.max_ids)


def _forget_seconds(table: str, rules: _Rules) -> float | None:
    return None if rules.forget_after is None else _span(f"{table}.forget_after", rules.forget_after, 0.0)


def _namespace_of(name: str) -> str:
    try:
        return check_id(name, "namespace")
    except InvalidIdError as problem:
        raise _FieldError("namespaces", problem) from problem


def _id_of(name: str) -> tuple[str, str]:
    namespace, slash, checkpoint_id = name.partition("/")
    if not slash:
        raise _FieldError(f'ids."{name}"', "an id is named with its namespace: NAMESPACE/ID")
    try:
        return check_id(namespace, "namespace"), check_id(checkpoint_id, "checkpoint id")
    except InvalidIdError as problem:
        raise _FieldError(f'ids."{name}"', problem) from problem


def _keep(table: str, rules: _Rules) -> Keep:
    try:
        count_bytes = None if rules.keep_bytes is None else parse_bytes(rules.keep_bytes)
    except InvalidAmountError as problem:
        raise _FieldError(f"{table}.keep_bytes", problem) from problem
    seconds = None if rules.keep_for is None else _span(f"{table}.keep_for", rules.keep_for, 0.0)
    return Keep(last=rules.keep_last, seconds=seconds, bytes=count_bytes)


def _span(field: str, text: str | None, default: float) -> float:
    try:
        return default if text is None else parse_seconds(text)
    except InvalidAmountError as problem:
        raise _FieldError(field, problem) from problem


def _floor_seconds(table: str, rules: _Rules) -> float | None:
    return None if rules.interval_min is None else _span(f"{table}.interval_min", rules.interval_min, 0.0)


def _interval_seconds(table: str, rules: _Rules) -> float | None:
    try:
        return None if rules.interval is None else parse_interval(rules.interval)
    except InvalidAmountError as problem:
        raise _FieldError(f"{table}.interval", problem) from problem
