"""The proof that the tables behind the views are what follows from the events: fold everything once more, and compare.

The comparison holds both in memory, rows that are shown and rows that should be: some kilobytes for each snapshot and start.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Table, select

from controlplane.log import read
from controlplane.log.chain import Problem
from controlplane.log.progress import Progress
from controlplane.log.projections import fold
from controlplane.log.projections.fold import Rows
from controlplane.log.schema import PROJECTIONS, projection_state
from controlplane.log.sql.rows import Fields, RowKey, key_of
from controlplane.log.upcast import Upcasts
from woodfrog.protocol.ids import Position

_PAGE: Final = 1000
_MOST_PROBLEMS: Final = 100


def differences(
    connection: Connection, upcasts: Upcasts, folded: Rows, position: Position, progress: Progress
) -> tuple[Problem, ...]:
    """Name every row that is not what a fold of the whole log gives; at most a hundred.

    ``folded`` is what a fold up to ``position`` gave, and is gone on with.

    Raises:
        UnreadableEventError: an event cannot be read.
        ArchivedRangeError: events behind ``position`` have been archived.
    """
    state = connection.execute(select(projection_state.c.version, projection_state.c.generation)).one()
    if state.version != fold.VERSION:
        what = f"the tables were folded by version {state.version}, this is {fold.VERSION}: they are to be rebuilt"
        return (Problem(0, what),)
    while records := read.read(connection, position, _PAGE, upcasts):
        for record in records:
            fold.fold(folded, record)
        position = records[-1].position
        progress.done += len(records)
    problems = [problem for table in PROJECTIONS for problem in _of_table(connection, table, state.generation, folded)]
    return tuple(problems[:_MOST_PROBLEMS])


def _of_table(connection: Connection, table: Table, generation: int, folded: Rows) -> list[Problem]:
    shown: dict[RowKey, Fields] = {}
    for found in connection.execute(select(table).where(table.c.generation == generation)).mappings():
        fields = {str(name): value for name, value in found.items() if name != "generation"}
        shown[key_of(table, fields)] = fields
    expected = folded.tables[table]
    problems = [
        Problem(row["position"], f"{table.name} has a row that no event gave rise to: {_named(key)}")
        for key, row in shown.items()
        if key not in expected
    ]
    for key, row in expected.items():
        if key not in shown:
            problems.append(Problem(row["position"], f"{table.name} lacks the row {_named(key)}"))
            continue
        wrong = sorted(name for name, value in row.items() if shown[key].get(name) != value)
        if wrong:
            what = f"{table.name} {_named(key)} differs from its events in {', '.join(wrong)}"
            problems.append(Problem(row["position"], what))
    return problems


def _named(key: RowKey) -> str:
    return "/".join(str(part) for part in key)
