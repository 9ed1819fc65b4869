"""The views: what people and programs may read with SQL, and rely on.

Columns are added, never renamed or removed; a breaking change is a new view. Every name carries its unit; moments end in
``_at`` and are UTC; ``position`` points at the event in ``events`` that gave rise to the row and is what to sort by. This
module is the contract; the SQL behind it is in the migrations, and a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, MetaData, Table, Text
from sqlalchemy.types import TypeEngine

from controlplane.log.schema import UtcTime

INTEGER, BIG, FLOAT, TEXT, BOOLEAN, MOMENT = Integer(), BigInteger(), Float(), Text(), Boolean(), UtcTime()

ColumnDoc = tuple[str, TypeEngine[Any], str]

_POSITION: Final[ColumnDoc] = ("position", BIG, "Position of the event that gave rise to the row; sort by it.")
_KEY: Final[list[ColumnDoc]] = [
    ("cluster", TEXT, "Cluster part of the checkpoint key."),
    ("namespace", TEXT, "Namespace part of the checkpoint key."),
    ("id", TEXT, "What the user wrote in the variable."),
]
_STATUSES: Final = (
    "`dumping`; `captured` (on the node, not yet durable); `valid` (stored and verified); `superseded` (too late: the "
    "start of a later container was decided without it); `failed`; `invalidated` (proved unusable, or a user said so); `expired` (by a policy or "
    "a user); `deleted` (the store holds nothing of it any more)."
)
_FAILING: Final = (
    "Event that recorded it: `snapshot.dump-failed`, `incarnation.restore-failed`, `incarnation.start-refused`, "
    "`command.finished`."
)
_FAILURE: Final[list[ColumnDoc]] = [
    ("failure_code", TEXT, "Stable code of the failure, fit for counting; NULL if nothing failed."),
    ("failure_cause", TEXT, "What went wrong, in a sentence."),
    ("failure_advice", TEXT, "What to do about it."),
]


class ViewContract(msgspec.Struct, frozen=True):
    """One view: what a row is, and what each column means."""

    name: str
    row: str
    columns: list[ColumnDoc]
    table: Table


_views = MetaData()


def _view(name: str, row: str, *columns: ColumnDoc) -> ViewContract:
    table = Table(name, _views, *(Column(column, kind) for column, kind, _ in columns))
    return ViewContract(name=name, row=row, columns=list(columns), table=table)


_ALL = (
    _view(
        "checkpoint_history",
        "One row for each snapshot ever begun.",
        _POSITION,
        *_KEY,
        ("snapshot_id", TEXT, "Names the snapshot; begins with the UTC second of its dump."),
        ("incarnation", INTEGER, "Which start of a container under the key was dumped: 1, 2, 3 …"),
        ("node", TEXT, "Node on which the dump was taken."),
        (
            "trigger",
            TEXT,
            "Why: `stop-signal`, `command`, `schedule`, or `import` of one that was brought from elsewhere.",
        ),
        ("final", BOOLEAN, "Whether the container ended with this dump (1) or ran on (0)."),
        ("command_id", TEXT, "Command that asked for the dump; NULL if none did."),
        ("status", TEXT, _STATUSES),
        ("dump_started_at", MOMENT, "When the dump began, by the node's clock."),
        ("captured_at", MOMENT, "When everything lay on the node and the container ran on or was dead."),
        ("stored_at", MOMENT, "When every byte was stored, read back and checked."),
        ("freeze_seconds", FLOAT, "How long the container stood still."),
        ("raw_bytes", BIG, "Size of the capture before compression and deduplication."),
        ("stored_bytes", BIG, "Bytes that this snapshot added to the store."),
        ("store_seconds", FLOAT, "From the capture to the verified snapshot."),
        ("manifest_digest", TEXT, "BLAKE3 of the manifest, 64 hex digits; what a restore is checked against."),
        ("superseded_by", INTEGER, "Incarnation that had started without this snapshot."),
        ("invalidated_reason", TEXT, "Why the snapshot is never chosen again."),
        ("failure_stage", TEXT, "Where a failed dump was: `preflight`, `capture`, `rehearsal` or `store`."),
        *_FAILURE,
        ("pinned", BOOLEAN, "Whether it is kept, and chosen before all others while it is valid (1), or not (0)."),
        ("pinned_reason", TEXT, "Why it was pinned, as its user said; NULL if it is not."),
        ("expired_at", MOMENT, "When its deletion was decided; it is not chosen from then on."),
        ("expired_reason", TEXT, "Which policy, or who, wants it gone."),
        ("delete_after", MOMENT, "Until then its bytes stay, for readers that may still need them."),
        ("deleted_at", MOMENT, "When its last byte was removed from the store."),
        (
            "rehearsal",
            TEXT,
            "What a rehearsal of its restore showed: `restorable`, `failed`, or `not-rehearsed` if one was due and not possible; NULL if none was due.",
        ),
        ("rehearsal_reason", TEXT, "Why the rehearsal failed or was not possible; NULL otherwise."),
        ("rehearsal_seconds", FLOAT, "How long the rehearsal took; NULL if none was due."),
    ),
    _view(
        "latest_snapshots",
        "One row for each key that has a valid snapshot: the one that its next container is offered first.",
        _POSITION,
        *_KEY,
        ("snapshot_id", TEXT, "Names the snapshot."),
        ("incarnation", INTEGER, "Which start of a container was dumped; the newest with a valid snapshot."),
        ("node", TEXT, "Node on which the dump was taken."),
        ("captured_at", MOMENT, "State of the container at this moment is what comes back."),
        ("stored_at", MOMENT, "When the snapshot became valid."),
        ("raw_bytes", BIG, "Size of the capture before compression and deduplication."),
        ("stored_bytes", BIG, "Bytes that this snapshot added to the store."),
        ("manifest_digest", TEXT, "BLAKE3 of the manifest, 64 hex digits."),
        ("pinned", BOOLEAN, "Whether it comes first because it is pinned (1), or because it is the newest (0)."),
    ),
    _view(
        "restore_history",
        "One row for each start of a container under a key.",
        _POSITION,
        *_KEY,
        ("incarnation", INTEGER, "Which start under the key: 1, 2, 3 …"),
        ("node", TEXT, "Node of the container."),
        ("container_id", TEXT, "The container engine's id, unique on its node."),
        ("opened_at", MOMENT, "When the worker asked how to start."),
        ("waited_for", TEXT, "What the start was held back for; NULL if it was not."),
        ("waited_until", MOMENT, "Until when it would have waited at most."),
        ("choice", TEXT, "`restored` or `cold`; NULL while undecided. The last one, if a restore failed."),
        ("snapshot_id", TEXT, "Snapshot that was chosen; NULL for a cold start."),
        ("reason", TEXT, "Why this choice, and why no newer snapshot."),
        ("chosen_at", MOMENT, "When it was chosen."),
        ("failed_restores", INTEGER, "How many restores failed before."),
        ("started_at", MOMENT, "When the container's processes ran."),
        ("restored_from", TEXT, "Snapshot that the running container really came from; NULL after a cold start."),
        ("create_seconds", FLOAT, "How long the runtime's `create` took, waiting and fetching included."),
        ("ended_at", MOMENT, "When the container was gone; NULL while it runs."),
        ("exit_code", INTEGER, "Its exit code, where known."),
        ("forgotten_at", MOMENT, "When the id was forgotten, in the row of its last start then; NULL otherwise."),
    ),
    _view(
        "failures",
        "One row for each failed dump, restore or command. A command's failed dump is counted once, as a dump.",
        _POSITION,
        *_KEY,
        (
            "type",
            TEXT,
            _FAILING,
        ),
        ("incarnation", INTEGER, "Which start under the key."),
        ("node", TEXT, "Node on which it failed; NULL for a command."),
        ("snapshot_id", TEXT, "Snapshot that could not be taken or restored; NULL for a command."),
        ("command_id", TEXT, "Command that it belongs to; NULL if none."),
        (
            "stage",
            TEXT,
            "Dumps: `preflight`, `capture`, `rehearsal`, `store`. Restores: `fetch`, `apply`, `criu`, `gpu`.",
        ),
        ("failed_at", MOMENT, "When, by the witness's clock."),
        ("failure_code", TEXT, "Stable code, fit for counting."),
        ("failure_cause", TEXT, "What went wrong, in a sentence."),
        ("failure_advice", TEXT, "What to do about it."),
        (
            "failure_detail",
            TEXT,
            "Lines of the tool's own log, if `WOODFROG_RECORD_DETAILS` is on; else where they are. Empty if there are none.",
        ),
    ),
    _view(
        "nodes",
        "One row for each node that ever had a worker.",
        _POSITION,
        ("node", TEXT, "Name of the node."),
        ("worker_id", TEXT, "The newest life of its worker."),
        ("boot_id", TEXT, "The kernel's boot id, which changes with every boot."),
        ("status", TEXT, "`ready` or `lost` (silent for too long)."),
        ("registered_at", MOMENT, "When this worker began."),
        ("lost_at", MOMENT, "When it was last declared lost; NULL if never in this worker's life."),
        ("silent_seconds", FLOAT, "How long it had been silent then."),
        ("returned_at", MOMENT, "When it was last heard of again after that."),
        ("architecture", TEXT, "As `uname -m` says."),
        ("kernel_release", TEXT, "As `uname -r` says."),
        ("page_size_bytes", BIG, "Size of a memory page."),
        ("cgroup_version", INTEGER, "1 or 2."),
        ("cpu_model", TEXT, "Model name of the CPU."),
        ("criu_version", TEXT, "Version of CRIU."),
        ("runc_version", TEXT, "Version of runc."),
        ("gpu_driver", TEXT, "Version of the NVIDIA driver; NULL if there is none."),
        ("gpu_count", INTEGER, "How many NVIDIA GPUs NVML lists; 0 if it lists none, or the node has no driver."),
        ("gpu_models", TEXT, "Models of its GPUs, each once, joined by `, `; NULL if there is none."),
        ("gpu_memory_bytes", BIG, "Memory of all its GPUs together; NULL if there is none."),
        (
            "gpus",
            TEXT,
            "JSON array of GPUs in the PCI bus's order: `uuid`, `model`, `compute_capability`, `memory_bytes`, `mig`, `persistence`, `minor`, each where known; NULL if there is none.",
        ),
        (
            "store",
            TEXT,
            "Identity of its snapshot store; NULL if it is unknown. Nodes that differ cannot restore each other's snapshots.",
        ),
        (
            "clock_offset_seconds",
            FLOAT,
            "By how much its clock is ahead of the control plane's, negative if it is behind; NULL while it never was 5 s off.",
        ),
    ),
    _view(
        "commands",
        "One row for each command that was issued.",
        _POSITION,
        ("command_id", TEXT, "Names the command."),
        ("kind", TEXT, "What was asked: `dump`, `delete`, `prefetch`, `check` or `store`."),
        *_KEY,
        (
            "incarnation",
            INTEGER,
            "Dumps: which start of a container it is for; void for any other. Deletions: which start was dumped.",
        ),
        ("node", TEXT, "Node whose worker was asked."),
        ("container_id", TEXT, "Container that is to be dumped; NULL for a deletion."),
        ("issued_at", MOMENT, "When it was decided."),
        ("deadline_at", MOMENT, "After this it is void."),
        ("status", TEXT, "`open`, `succeeded`, `failed` or `expired`."),
        (
            "snapshot_id",
            TEXT,
            "Dumps: snapshot that it led to, whole or not. Deletions: snapshot that is to be removed.",
        ),
        ("finished_at", MOMENT, "When it reached its end."),
        *_FAILURE,
    ),
    _view(
        "dead_letters",
        "One row for each report that was not believed; the newest 1,000 of each node.",
        ("position", BIG, "Position of the newest event when the report was put aside."),
        ("number", BIG, "1, 2, 3 … in the order in which reports were put aside."),
        ("stream", TEXT, "Stream that brought it: `REPORTS`."),
        ("sequence", BIG, "Its place there, where the whole message lies for a week."),
        ("subject", TEXT, "Subject over which it came."),
        ("node", TEXT, "Node that may speak over that subject."),
        ("report_id", TEXT, "Id of the report; NULL if it could not be read."),
        (
            "kind",
            TEXT,
            "`unreadable`; `rejected` (contradicts what is recorded); `forgotten` (its id was forgotten); `overtaken` (says nothing new); `undecidable` (a defect of Woodfrog).",
        ),
        ("reason", TEXT, "What was wrong with it, naming the field where there is one."),
        ("excerpt", TEXT, "Its first 4,096 bytes, unprintable ones escaped."),
        ("size_bytes", BIG, "Its size."),
        ("received_at", MOMENT, "When the broker stored it, by the broker's clock."),
        ("recorded_at", MOMENT, "When it was put aside, by the control plane's clock."),
    ),
    _view(
        "events",
        "One row for each event, never changed. This is the log itself.",
        ("position", BIG, "Place in the one global order: 1, 2, 3 … without gaps."),
        ("stream", TEXT, "`checkpoint/<cluster>/<namespace>/<id>`, `node/<node>` or `log/<cluster>`."),
        ("version", BIG, "Place in its stream: 1, 2, 3 … without gaps."),
        ("event_id", TEXT, "UUID, the same however often the event is sent."),
        ("type", TEXT, "What happened, e.g. `snapshot.stored`."),
        ("schema_version", INTEGER, "Version of the type's form as written."),
        ("data", TEXT, "The event, a JSON object."),
        ("metadata", TEXT, "JSON object: `actor`, `causation` and, where there is one, `correlation`."),
        ("command_id", TEXT, "Command that the event belongs to; NULL if none."),
        ("occurred_at", MOMENT, "When it happened, by the witness's clock."),
        ("recorded_at", MOMENT, "When it was appended, by the control plane's clock."),
        ("hash", TEXT, "BLAKE3 over the hash of the stream's event before and this row, 64 hex digits."),
    ),
)

CONTRACT: Final[dict[str, ViewContract]] = {view.name: view for view in _ALL}
"""Every view by name, and ``events``."""
