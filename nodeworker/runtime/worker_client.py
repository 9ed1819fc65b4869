"""Asking the node worker, from a process that must not hang and may outlive it.

One line of JSON each way over the worker's unix socket, as ``woodfrog.protocol.runtime_api`` says.
"""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import time

from nodeworker.runtime.minimal_stdlib import json, socket

_CHUNK_BYTES = 1 << 16
_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 0.05
_BREAKS = 5


class AbsentError(Exception):
    """Nobody listens on the worker's socket."""


class BrokenError(Exception):
    """The worker was there and did not answer: it died, or took too long."""


Answer = dict[str, object]


def ask(path: str, request: Answer, *, connect_seconds: float, answer_seconds: float) -> Answer:
    """Ask once, waiting no longer than the two bounds for the worker and then for its answer.

    Raises:
        AbsentError: when no connection came about within ``connect_seconds``.
        BrokenError: when the connection broke, or no answer came within ``answer_seconds``.
    """
    with _connect(path, connect_seconds) as connection:
        deadline = time.monotonic() + answer_seconds
        try:
            connection.settimeout(answer_seconds)
            connection.sendall(json.dumps(request).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                more = connection.recv(_CHUNK_BYTES)
                if not more:
                    raise BrokenError("the worker closed the connection without an answer")
                data += more
            answer = json.loads(data)
        except TimeoutError as problem:
            raise BrokenError(f"the worker did not answer within {answer_seconds:g} s") from problem
        except (OSError, ValueError) as problem:
            raise BrokenError(f"the worker's answer broke off: {problem}") from problem
    if not isinstance(answer, dict):
        raise BrokenError("the worker's answer is not a JSON object")
    return answer


def insist(path: str, request: Answer, *, wait_seconds: float, answer_seconds: float) -> Answer:
    """Ask, and ask again when the worker dies over it: its successor knows the container from its journal.

    Raises:
        AbsentError: when no worker came back within ``wait_seconds``.
        BrokenError: when it broke off again and again.
    """
    for _ in range(_BREAKS - 1):
        try:
            return ask(path, request, connect_seconds=wait_seconds, answer_seconds=answer_seconds)
        except BrokenError:
            time.sleep(_POLL_SECONDS)
    return ask(path, request, connect_seconds=wait_seconds, answer_seconds=answer_seconds)


def _connect(path: str, seconds: float) -> socket.socket:
    deadline = time.monotonic() + seconds
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect(path)
        except OSError as problem:
            connection.close()
            if time.monotonic() >= deadline:
                raise AbsentError(f"{path}: {problem.strerror or problem}") from problem
            time.sleep(_POLL_SECONDS)
        except BaseException:
            connection.close()
            raise
        else:
            return connection
