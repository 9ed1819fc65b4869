"""Code in memory that a process shares, found before anything is frozen: CRIU cannot begin its work there.

CRIU writes its first system call over the lowest executable mapping of a process (criu/parasite-syscall.c, ``get_exec_start``). The
kernel lets a tracer write into code that is private; in a shared mapping only if the process itself may write there (mm/gup.c,
``check_vma_flags``). PHP is such a program: OPcache keeps what its compiler makes in the memory that all workers share, and reserves
that below the program itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.errors import refusal
from woodfrog.service.procfs import named

_FIRST_EXECUTABLE: Final = re.compile(r"^[0-9a-f]+-[0-9a-f]+ .(.)x(.) ", re.MULTILINE)
"""Whether it is writable, and whether it is shared (proc_pid_maps(5))."""


def refuse_shared(pids: Iterable[int]) -> None:
    """Refuse processes whose lowest executable mapping is shared and read-only.

    Raises:
        FailureError: ``code-shared``, naming the process.
    """
    for pid in pids:
        with suppress(OSError):  # it has ended
            first = _FIRST_EXECUTABLE.search(Path(f"/proc/{pid}/maps").read_text(errors="replace"))
            if first is not None and first.groups() == ("-", "s"):
                raise refusal(
                    "code-shared",
                    f"{named(pid)} executes code in memory that it shares with others and may not write to, below its own program, "
                    "where CRIU cannot begin its work",
                    "PHP: set opcache.jit_buffer_size=0, which costs nothing unless the JIT is on. Other programs: map code privately.",
                )
