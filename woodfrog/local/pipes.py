"""The standard streams of a container of ``woodfrog run``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_OUTPUT_SECONDS = 5.0
_CHUNK_BYTES = 1 << 16


class Output:
    """The container's standard streams: pipes, because CRIU can hand a pipe on to a restored process and a terminal not."""

    def __init__(self, to_stdout: Callable[[bytes], None], to_stderr: Callable[[bytes], None]) -> None:
        self.stdin, closed = os.pipe()
        os.close(closed)  # the container reads end-of-file
        read_out, self.stdout = os.pipe()
        read_err, self.stderr = os.pipe()
        self._threads = [
            threading.Thread(target=_carry, args=(read_out, to_stdout), daemon=True),
            threading.Thread(target=_carry, args=(read_err, to_stderr), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._ours = [self.stdin, self.stdout, self.stderr]

    def handed_over(self) -> None:
        """The child has them now; ours would keep the pipes open after the container's end."""
        for descriptor in self._ours:
            os.close(descriptor)
        self._ours = []

    def finish(self) -> None:
        """Carry what is left, but no longer than a moment: a process that left the container may hold a pipe open."""
        self.handed_over()
        for thread in self._threads:
            thread.join(_OUTPUT_SECONDS)


def _carry(source: int, sink: Callable[[bytes], None]) -> None:
    with open(source, "rb", buffering=0) as pipe:
        while data := pipe.read(_CHUNK_BYTES):
            sink(data)
