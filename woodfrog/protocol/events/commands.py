"""That a command was decided, and how it ended."""

from __future__ import annotations

from enum import StrEnum

from woodfrog.protocol.commands import CheckCommand, Command, DeleteCommand, DumpCommand, PrefetchCommand, StoreCommand
from woodfrog.protocol.events.base import AboutKey
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CommandId

__all__ = [
    "CommandEvent",
    "CommandFinished",
    "CommandIssued",
    "Outcome",
    "ReportedCommandEvent",
]


class Outcome(StrEnum):
    """How a command ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"


class CommandIssued(AboutKey, frozen=True, tag="command.issued"):
    """A command was decided; the relay sends it from the log."""

    command: Command

    def __str__(self) -> str:
        return f"command {self.command.command_id} asks node {self.command.node} {_wish(self.command)}"


class CommandFinished(AboutKey, frozen=True, tag="command.finished"):
    """A command reached its one end."""

    command_id: CommandId
    outcome: Outcome
    failure: Failure | None = None

    def __str__(self) -> str:
        return f"command {self.command_id} {self.outcome}{f': {self.failure}' if self.failure is not None else ''}"


CommandEvent = CommandIssued | CommandFinished
ReportedCommandEvent = CommandFinished


def _wish(command: Command) -> str:
    match command:
        case DumpCommand(scheduled=scheduled):
            return "for a dump, as its interval says" if scheduled else "for a dump"
        case DeleteCommand(snapshot_id=snapshot_id):
            return f"to delete snapshot {snapshot_id}"
        case CheckCommand():
            return "whether the container could be captured and restored"
        case StoreCommand(snapshot_id=snapshot_id):
            return f"to store snapshot {snapshot_id} now"
        case PrefetchCommand(snapshot_id=snapshot_id):
            return f"to have snapshot {snapshot_id} ready for a container that is on its way"
