"""The standard streams of a container of ``woodfrog run``."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

_OUTPUT_SECONDS = 5.0


class Output:
    """The container's standard streams: pipes, because CRIU can hand a pipe on to a restored process and a terminal not."""

    def __init__(self) -> None:
        self.stdin, closed = os.pipe()
        os.close(closed)  # the container reads end-of-file
        read_out, self.stdout = os.pipe()
        read_err, self.stderr = os.pipe()
        self._threads = [
            threading.Thread(target=_carry, args=(read_out, sys.stdout.buffer), daemon=True),
            threading.Thread(target=_carry, args=(read_err, sys.stderr.buffer), daemon=True),
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


def _carry(source: int, sink: BinaryIO) -> None:
    with open(source, "rb", buffering=0) as pipe:
        shutil.copyfileobj(pipe, _Unbuffered(sink))


class _Unbuffered:
    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        with suppress(BrokenPipeError, ValueError):  # nobody reads us any more: the container need not suffer from it
            self._sink.write(data)
            self._sink.flush()
        return len(data)
