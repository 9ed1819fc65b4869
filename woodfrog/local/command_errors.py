"""A command that a container does not have, or that nobody can execute: told from every other failure of the runtime.

Shells, ``env`` and docker end with 127 for the one and with 126 for the other (POSIX.1-2017, 2.8.2). runc has sentences for them, of Go's
``os/exec`` and of execve(2), which its log holds.
"""

from __future__ import annotations

from typing import Final

from woodfrog.protocol.failures import Failure

MISSING: Final = "command-missing"
NOT_EXECUTABLE: Final = "command-not-executable"
EXIT_CODES: Final = {MISSING: 127, NOT_EXECUTABLE: 126}

_ABOUT_COMMAND: Final = 'exec: "'
_MISSING: Final = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE: Final = ("permission denied", "is a directory", "exec format error")


def command_error(words: str, command: str) -> Failure | None:
    """Find out from the runtime's words whether ``command`` is what was wrong."""
    if _ABOUT_COMMAND not in words and "exec format error" not in words:
        return None
    if any(each in words for each in _MISSING):
        advice = "Check its spelling, and that it lies in the container's root filesystem (--rootfs) and on its PATH (--env PATH=…), or in a --mount."
        return Failure(MISSING, f"there is no command {command!r} in the container", advice)
    if any(each in words for each in _NOT_EXECUTABLE):
        advice = "Name a program of this machine's architecture whose file may be executed (`chmod +x`), or the interpreter before the script."
        return Failure(NOT_EXECUTABLE, f"the container cannot execute {command!r}", advice)
    return None
