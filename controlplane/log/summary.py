"""What the views come to: the newest state of each id, counts of the last hours, failures by their cause.

Every number is read off the views when somebody asks. Times are looked for by position, which every table has an index on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    cast,
    distinct,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.sql import Select

from controlplane.log.pages import Scope, position_at
from controlplane.log.projections.views import CONTRACT
from controlplane.log.read import plain

IdState = Literal["running", "waiting", "starting", "ended", "forgotten"]
"""Of the newest container of an id: its processes run; its start is held back; it is being started; it is gone, or the id is, too."""

_STARTS: Final = CONTRACT["restore_history"].table
_SNAPSHOTS: Final = CONTRACT["checkpoint_history"].table
_LATEST: Final = CONTRACT["latest_snapshots"].table
_NODES: Final = CONTRACT["nodes"].table
_FAILURES: Final = CONTRACT["failures"].table
_KEY: Final = ("cluster", "namespace", "id")
_SNAPSHOT_NAME: Final = re.compile(r"\b\d{8}T\d{6}Z-[0-9a-f]{8}\b")
_MOST_ROWS: Final = 20_000
_MOST_REASONS: Final = 10
_IS_IMPORT: Final = _SNAPSHOTS.c.trigger == bindparam("trigger", "import", literal_execute=True)
"""A constant of the statement: only so can an index of those alone serve it."""
_PROTECTED: Final = exists(
    select(literal(1)).where(*(_SNAPSHOTS.c[part] == _STARTS.c[part] for part in _KEY), _SNAPSHOTS.c.status == "valid")
)
_STATE: Final[ColumnElement[str]] = case(
    (and_(_STARTS.c.forgotten_at.is_not(None), ~_PROTECTED), "forgotten"),  # a snapshot may have been imported since
    (_STARTS.c.ended_at.is_not(None), "ended"),
    (_STARTS.c.started_at.is_not(None), "running"),
    (and_(_STARTS.c.choice.is_(None), _STARTS.c.waited_for.is_not(None)), "waiting"),
    else_="starting",
)


class Spread(msgspec.Struct, frozen=True):
    """How a number is spread: the value below which half, 90 % and 99 % of them are, and the largest."""

    count: int
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None


class Reason(msgspec.Struct, frozen=True):
    """How often a reason was given; snapshots in it are called ``…``."""

    reason: str
    count: int


class Hour(msgspec.Struct, frozen=True):
    """What began within the last hour."""

    dumps: dict[str, int]
    """By status."""
    restored: int
    cold: int
    cold_reasons: list[Reason]
    failures: dict[str, int]
    """By code."""
    freeze_seconds: Spread
    raw_bytes: Spread
    stored_bytes: Spread
    restore_seconds: Spread
    """From the runtime's create to its answer, of restored containers."""
    complete: bool
    """Whether all of it was looked at; else the newest of it."""


class Overview(msgspec.Struct, frozen=True):
    """Everything in a few numbers."""

    ids: dict[str, int]
    """By the state of their newest container."""
    protected: int
    """Ids with a valid snapshot whose container runs."""
    hour: Hour


class Cause(msgspec.Struct, frozen=True):
    """One code of failures, with the newest case."""

    failure_code: str
    count: int
    ids: int
    newest: dict[str, Any]


def _newest_start() -> Select[Any]:
    """Of each id the start whose container is its own: the newest, but for those beside which the one before still runs.

    One that ended and was not seen to run counts only if there is no other. One that is being created counts once it runs, if an
    earlier one does until then; one that waits for that is shown, for somebody may wonder why.
    """
    other, between = _STARTS.alias("other"), _STARTS.alias("between")
    same = [other.c[part] == _STARTS.c[part] for part in _KEY]
    newer = other.c.incarnation > _STARTS.c.incarnation

    def none(*clauses: ColumnElement[bool]) -> ColumnElement[bool]:
        return ~exists(select(literal(1)).where(*same, *clauses))

    is_newest_that_counts = none(newer, ~_came_to_nothing(other))
    takes_its_place = exists(
        select(literal(1)).where(
            *(between.c[part] == other.c[part] for part in _KEY),
            between.c.incarnation > other.c.incarnation,
            ~_came_to_nothing(between),
            ~_is_starting(between),
        )
    )
    return select(_STARTS, _STATE.label("state"), _PROTECTED.label("protected")).where(
        case(
            (_came_to_nothing(_STARTS), and_(none(newer), none(~_came_to_nothing(other)))),
            (_runs(_STARTS), none(newer, ~_came_to_nothing(other), ~_is_starting(other))),
            (
                _is_starting(_STARTS),
                and_(
                    is_newest_that_counts,
                    none(other.c.incarnation < _STARTS.c.incarnation, _runs(other), ~takes_its_place),
                ),
            ),
            else_=is_newest_that_counts,
        )
    )


def _came_to_nothing(start: Any) -> ColumnElement[bool]:
    """The row that says that its id was forgotten counts in any case."""
    return and_(start.c.ended_at.is_not(None), start.c.started_at.is_(None), start.c.forgotten_at.is_(None))


def _runs(start: Any) -> ColumnElement[bool]:
    return and_(start.c.started_at.is_not(None), start.c.ended_at.is_(None), start.c.forgotten_at.is_(None))


def _is_starting(start: Any) -> ColumnElement[bool]:
    waits = and_(start.c.choice.is_(None), start.c.waited_for.is_not(None))
    open_since = (start.c[name].is_(None) for name in ("started_at", "ended_at", "forgotten_at"))
    return and_(*open_since, ~waits)


def _imported() -> Select[Any]:
    """Of each id that no container was started of here, and that is known by an imported snapshot, a row as of a start.

    It ran and ended elsewhere; here, all that is known is its newest number.
    """
    known = {name: _SNAPSHOTS.c[name] for name in _KEY} | {
        name: func.max(_SNAPSHOTS.c[name]).label(name) for name in ("incarnation", "position")
    }
    columns = (known.get(column.name, cast(null(), column.type).label(column.name)) for column in _STARTS.c)
    started = exists(select(literal(1)).where(*(_STARTS.c[part] == _SNAPSHOTS.c[part] for part in _KEY)))
    return (
        select(*columns, literal("ended").label("state"), true().label("protected"))
        .where(_IS_IMPORT, _SNAPSHOTS.c.status == "valid", ~started)
        .group_by(*(_SNAPSHOTS.c[part] for part in _KEY))
    )


def nodes(connection: Connection, *, only: str | None = None, after: str = "", limit: int) -> list[dict[str, Any]]:
    """Read nodes in the order of their names' code points, behind ``after``; ``only`` names one."""
    name = _NODES.c.node.collate("BINARY" if connection.dialect.name == "sqlite" else "C")
    statement = select(_NODES).where(name > after)
    if only is not None:
        statement = statement.where(_NODES.c.node == only)
    return [plain(row) for row in connection.execute(statement.order_by(name).limit(limit)).mappings()]


def ids(
    connection: Connection,
    scope: Scope,
    *,
    search: str | None = None,
    state: str | None = None,
    only: tuple[str, str] | None = None,
    after: tuple[str, str] | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Read the newest state of ids, in the order of namespace and id, behind ``after``; ``only`` names one by both.

    Those that were forgotten are among them only if they are asked for.
    """

    def asked(table: Any) -> list[ColumnElement[bool]]:
        namespace, name = table.c.namespace, table.c.id
        clauses = scope.rows(table)
        if only is not None:
            clauses += [namespace == only[0], name == only[1]]
        if after is not None:
            clauses.append(or_(namespace > after[0], and_(namespace == after[0], name > after[1])))
        if search:
            clauses.append(name.icontains(search, autoescape=True))
        return clauses

    starts = _newest_start().where(*asked(_STARTS))
    if state == "protected":
        starts = starts.where(_STATE.in_(["running"]), _PROTECTED)
    elif state is not None:
        starts = starts.where(_STATE.in_([state]))
    elif only is None:
        starts = starts.where(_STATE.not_in(["forgotten"]))
    imported = [_imported().where(*asked(_SNAPSHOTS))] if state in {None, "ended"} else []
    statement = union_all(starts, *imported).order_by("namespace", "id").limit(limit)
    found = [plain(row) for row in connection.execute(statement).mappings()]
    latest = _by_key(connection, select(_LATEST), _LATEST, found)
    # The newest of each by its position, which has an index: compared with one another they would be read over and over.
    places = select(*(_SNAPSHOTS.c[part] for part in _KEY), func.max(_SNAPSHOTS.c.position).label("position")).group_by(
        *(_SNAPSHOTS.c[part] for part in _KEY)
    )
    newest = _by_key(connection, places, _SNAPSHOTS, found)
    columns = (*_KEY, "snapshot_id", "status", "dump_started_at", "failure_code", "failure_cause")
    read = select(*(_SNAPSHOTS.c[name] for name in columns)).where(
        _SNAPSHOTS.c.position.in_([row["position"] for row in newest.values()])
    )
    dumps = {(row["namespace"], row["id"]): plain(row) for row in connection.execute(read).mappings()}
    for row in found:
        key = (row["namespace"], row["id"])
        row["protected"] = bool(row["protected"])
        row["latest_snapshot"] = latest.get(key)
        row["last_dump"] = dumps.get(key)
    return found


def _by_key(
    connection: Connection, statement: Select[Any], table: Any, found: Sequence[dict[str, Any]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Read rows of these ids, one each."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in found:
        names.setdefault((row["cluster"], row["namespace"]), []).append(row["id"])
    if not names:
        return {}
    which = (
        and_(table.c.cluster == cluster, table.c.namespace == namespace, table.c.id.in_(some))
        for (cluster, namespace), some in names.items()
    )
    return {
        (row["namespace"], row["id"]): plain(row) for row in connection.execute(statement.where(or_(*which))).mappings()
    }


def namespaces(connection: Connection, cluster: str) -> list[str]:
    """List the namespaces of which containers were started, or snapshots imported."""
    started = select(_STARTS.c.namespace).where(_STARTS.c.cluster == cluster)
    imported = select(_SNAPSHOTS.c.namespace).where(_SNAPSHOTS.c.cluster == cluster, _IS_IMPORT)
    return list(connection.scalars(started.union(imported)))


def overview(connection: Connection, scope: Scope, now: datetime) -> Overview:
    """Count."""
    imported = _imported().where(*scope.rows(_SNAPSHOTS))
    newest = union_all(_newest_start().where(*scope.rows(_STARTS)), imported).subquery()
    counted = connection.execute(
        select(newest.c.state, newest.c.protected, func.count()).group_by(newest.c.state, newest.c.protected)
    ).all()
    states: Counter[str] = Counter()
    for state, _, count in counted:
        states[state] += count
    protected = sum(count for state, has_snapshot, count in counted if has_snapshot and state == "running")
    return Overview(dict(states), protected, _hour(connection, scope, now))


def _hour(connection: Connection, scope: Scope, now: datetime) -> Hour:
    since = position_at(connection, now - timedelta(hours=1))
    dumps = _since(connection, scope, _SNAPSHOTS, since, "status", "freeze_seconds", "raw_bytes", "stored_bytes")
    starts = _since(connection, scope, _STARTS, since, "choice", "reason", "create_seconds", "started_at")
    failed = _since(connection, scope, _FAILURES, since, "failure_code")
    cold = [row for row in starts if row.choice == "cold"]
    restored = [row for row in starts if row.choice == "restored"]
    reasons = Counter(_SNAPSHOT_NAME.sub("…", row.reason or "") for row in cold)
    return Hour(
        dumps=dict(Counter(row.status for row in dumps)),
        restored=len(restored),
        cold=len(cold),
        cold_reasons=[Reason(reason, count) for reason, count in reasons.most_common(_MOST_REASONS)],
        failures=dict(Counter(row.failure_code for row in failed)),
        freeze_seconds=spread(row.freeze_seconds for row in dumps),
        raw_bytes=spread(row.raw_bytes for row in dumps),
        stored_bytes=spread(row.stored_bytes for row in dumps),
        restore_seconds=spread(row.create_seconds for row in restored),
        complete=max(len(dumps), len(starts), len(failed)) < _MOST_ROWS,
    )


def _since(connection: Connection, scope: Scope, table: Any, since: int, *columns: str) -> Sequence[Any]:
    statement = select(*(table.c[name] for name in columns)).where(*scope.rows(table), table.c.position > since)
    return connection.execute(statement.order_by(table.c.position.desc()).limit(_MOST_ROWS)).all()


def spread(values: Iterable[float | None]) -> Spread:
    """Say how numbers are spread, by the nearest rank; what is unknown is left out."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return Spread(0)

    def rank(share: float) -> float:
        return known[math.ceil(len(known) * share) - 1]

    return Spread(len(known), rank(0.5), rank(0.9), rank(0.99), known[-1])


def causes(connection: Connection, scope: Scope, since: datetime | None, limit: int) -> list[Cause]:
    """Group the failures since a moment by their code, the most frequent first."""
    after = 0 if since is None else position_at(connection, since)
    table = _FAILURES
    of_id = table.c.namespace + "/" + table.c.id
    counted = connection.execute(
        select(
            table.c.failure_code,
            func.count().label("count"),
            func.count(distinct(of_id)).label("ids"),
            func.max(table.c.position).label("newest"),
        )
        .where(*scope.rows(table), table.c.position > after)
        .group_by(table.c.failure_code)
        .order_by(func.count().desc(), table.c.failure_code)
        .limit(limit)
    ).all()
    newest = {
        row["position"]: plain(row)
        for row in connection.execute(
            select(table).where(table.c.position.in_([each.newest for each in counted]))
        ).mappings()
    }
    return [Cause(each.failure_code, each[1], each.ids, newest[each.newest]) for each in counted]
