"""What every table, view and column means, written into the database itself, where people look first.

PostgreSQL keeps it as comments, which psql and every database tool show. SQLite has no comments, so on both engines the table
``schema_dictionary`` says the same of everything that is public. Both are brought up to date whenever a database is migrated,
so they say what the code says. The words for the public views are those of their contract (:mod:`controlplane.log.projections.views`).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, MetaData, delete, insert, select, text

from controlplane.log.projections.views import BOOLEAN, CONTRACT, FLOAT, TEXT
from controlplane.log.schema import UtcTime, metadata, schema_dictionary

_PROJECTED: Final = {
    "snapshots": "checkpoint_history",
    "incarnations": "restore_history",
    "failure_records": "failures",
    "node_states": "nodes",
    "command_states": "commands",
    "dead_letter_records": "dead_letters",
}
_TABLES: Final = {
    "log_head": "One row: where the log ends and who leads. Its lock is what makes positions gapless.",
    "streams": "One row for each stream: its newest version and where its hash chain ends, kept by triggers.",
    "event_ids": "One row for each event ever recorded, archived ones too. Written by triggers only.",
    "archived_segments": "One row for each range of events that was written to a file and removed from events.",
    "archived_heads": "One row for each stream with archived events: where its hash chain stood at the end of the archive.",
    "schema_dictionary": "What each public column means; the row without a column is about the view itself.",
    "projection_state": "One row: by which version of the fold the projections were written.",
    "state_copies": "A cache: copies of the control plane's folded state.",
    "state_copy_parts": "The bytes of the copies in state_copies.",
    "leader_lease": "One row: which control plane leads. The fence is log_head.epoch; from this the others know when to take over.",
    "dead_letter_records": "Rows behind the view dead_letters. No events: only the newest of each node are kept.",
    "alembic_version": "The schema's revision.",
}
_COLUMNS: Final = {
    "log_head.position": "Position of the newest event, 0 if there is none.",
    "log_head.epoch": "The leadership that may append; every smaller one is fenced off.",
    "streams.hash": "Hash of the stream's newest event.",
    "archived_segments.first_position": "Position of the segment's first event.",
    "archived_segments.last_position": "Position of its last event; the next segment begins right behind it.",
    "archived_segments.hash": "BLAKE3 over the hash of the segment before and this row, 64 hex digits.",
    "archived_heads.hash": "Hash of the stream's newest archived event.",
    "event_ids.position": "Position of the event.",
    "state_copies.position": "Position of the newest event that was folded in.",
    "state_copy_parts.position": "Which copy.",
    "failure_records.code": "Stable code, fit for counting.",
    "failure_records.cause": "What went wrong, in a sentence.",
    "failure_records.advice": "What to do about it.",
    "failure_records.detail": "Lines of the tool's own log; empty if there are none.",
    "incarnations.deferred_at": "When the start was first held back.",
    "incarnations.deferred_until": "Until when it would have waited at most.",
    "leader_lease.holder": "Name, boot, pid namespace, pid, start and a random part of the leader; empty if there is no leader.",
    "leader_lease.duration_seconds": "How long others must see the row unchanged before they may take it.",
    "leader_lease.version": "Raised by every write; who waits watches it, and no clock but his own.",
    "leader_lease.renewed_at": "When it was last written, by the writer's clock; for people only.",
    "dead_letter_records.letter_id": "UUID of the message, the same however often it is delivered.",
    "projection_state.version": "Version of the fold's code.",
}
_ANYWHERE: Final = {
    "one": "Always 1: the table has one row.",
    "stream": "`checkpoint/<cluster>/<namespace>/<id>`, `node/<node>` or `log/<cluster>`.",
    "version": "Version of the stream's newest event.",
    "event_id": "UUID of the event.",
    "file": "Name of the segment's file.",
    "file_bytes": "Its size.",
    "file_digest": "BLAKE3 of the file, 64 hex digits.",
    "heads_digest": "BLAKE3 of archived_heads as it stood at the segment's end, 64 hex digits.",
    "first_recorded_at": "When its first event was recorded.",
    "last_recorded_at": "When its last event was recorded.",
    "archived_at": "When its events were removed from the table.",
    "object": "Name of the view or table.",
    "column": "Name of the column; empty where the row is about the whole view.",
    "type": "`text`, `integer`, `real`, `boolean` or `moment`; empty where the row is about the whole view.",
    "meaning": "What it means.",
    "generation": "Which rebuild of the projections the row belongs to.",
    "building_generation": "The rebuild in progress; NULL if none is.",
    "building_version": "Version of the fold's code that rebuilds.",
    "building_position": "How far the rebuild has come.",
    "form": "Form of the state that the copy holds.",
    "event_hash": "Hash of the event at the copy's position.",
    "parts": "How many parts the copy has.",
    "part": "Number of the part.",
    "data": "Its bytes.",
}


def _type_name(kind: object) -> str:
    if isinstance(kind, UtcTime):
        return "moment"
    return "real" if kind is FLOAT else "text" if kind is TEXT else "boolean" if kind is BOOLEAN else "integer"


def _wording() -> dict[tuple[str, str], str]:
    """Say it for everything; the empty column is the table or view itself."""
    words: dict[tuple[str, str], str] = {}
    for view in CONTRACT.values():
        words[view.name, ""] = view.row
        words |= {(view.name, column): meaning for column, _, meaning in view.columns}
    for table in metadata.tables.values():
        if table.name in CONTRACT:
            continue
        seen = _PROJECTED.get(table.name, "")
        words[table.name, ""] = _TABLES.get(table.name) or f"Rows behind the view {seen}, derived from the events."
        for column in table.columns:
            words[table.name, column.name] = (
                _COLUMNS.get(f"{table.name}.{column.name}") or words.get((seen, column.name)) or _ANYWHERE[column.name]
            )
    return words


WORDS: Final = _wording()
"""Meanings by (table or view, column)."""


def described() -> MetaData:
    """Give the schema with its words, so that a comparison with a database compares the words, too."""
    for table in metadata.tables.values():
        table.comment = WORDS[table.name, ""]
        for column in table.columns:
            column.comment = WORDS[table.name, column.name]
    return metadata


def describe(connection: Connection) -> None:
    """Write the meanings into a database that is at the newest revision; writes nothing where nothing differs."""
    rows = [
        {"object": view.name, "column": name, "type": kind, "meaning": WORDS[view.name, name]}
        for view in CONTRACT.values()
        for name, kind in [("", ""), *((column, _type_name(kind)) for column, kind, _ in view.columns)]
    ]
    there = [dict(row) for row in connection.execute(select(schema_dictionary)).mappings()]
    if sorted(there, key=str) != sorted(rows, key=str):
        connection.execute(delete(schema_dictionary))
        connection.execute(insert(schema_dictionary), rows)
    if connection.dialect.name == "postgresql":
        _comment(connection)


def _comment(connection: Connection) -> None:
    kinds = {}
    said = {}
    for relation, kind, column, comment in connection.execute(
        text(
            "SELECT c.relname, c.relkind, coalesce(a.attname, ''), d.description FROM pg_class c "
            "LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass "
            "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND a.attnum > 0 "
            "WHERE c.relnamespace = current_schema()::regnamespace"
        )
    ):
        kinds[relation] = "VIEW" if kind in {"v", b"v"} else "TABLE"
        said[relation, column] = comment
    quote = connection.dialect.identifier_preparer.quote
    for (relation, column), words in WORDS.items():
        if said.get((relation, column)) == words:
            continue
        literal = words.replace("'", "''")
        if column:
            connection.exec_driver_sql(f"COMMENT ON COLUMN {quote(relation)}.{quote(column)} IS '{literal}'")
        else:
            connection.exec_driver_sql(f"COMMENT ON {kinds[relation]} {quote(relation)} IS '{literal}'")
