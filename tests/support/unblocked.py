"""An async test fails in which our code does something in the event loop that waits for a disk, a socket, a lock or a clock.

Ours is what a coroutine of ours does. What a test itself does in its loop, with functions of ours that are for threads, holds up nobody.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from blockbuster import BlockBuster

_TESTS: Final = str(Path(__file__).parents[1])
_MAY: Final = (
    ("structlog/dev.py", "__call__"),  # how tests print log lines; services write them as JSON
    ("controlplane/log/sql/engine.py", "open_engine"),  # once, before anything is served
    ("controlplane/log/sql/engine.py", "blocking_twin"),
    ("controlplane/log/sql/engine.py", "make_ready"),
    ("controlplane/http/assets.py", "page_files"),
    ("controlplane/core/state_cache.py", "fingerprint"),
    (
        "controlplane/log/sql/engine.py",
        "writing",
    ),  # SQLAlchemy looks where the file is when it opens one more connection
    ("controlplane/log/sql/engine.py", "reading"),
    (
        "controlplane/log/archive/writer.py",
        "_archive_one",
    ),  # removes what is left of a file where it could not be placed
    ("controlplane/http/api/tokens.py", "_refresh"),  # a Secret of some 100 bytes, as the next two
    ("woodfrog/service/nats.py", "read"),
    ("woodfrog/service/nkeys.py", "from_file"),
    ("woodfrog/service/metrics.py", "page"),  # /proc, which is memory
)
"""Where our coroutines may block, by the end of a file's name and a function."""
_COROUTINE: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@cache
def watch(*packages: str) -> BlockBuster:
    """Watch for what coroutines of packages do; ``activate`` and ``deactivate`` it."""
    made = BlockBuster(list(packages))
    folders = tuple(str(Path(str(sys.modules[name].__file__)).parent) for name in packages)
    for function in made.functions.values():
        function.can_block_predicate = _or_of_a_test(function.can_block_predicate, folders)
        for file, name in _MAY:
            function.can_block_in(file, name)
    return made


def _or_of_a_test(allowed: Callable[..., bool], folders: tuple[str, ...]) -> Callable[..., bool]:
    def decide(*args: Any, **kwargs: Any) -> bool:
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            code = frame.f_code
            if code.co_flags & _COROUTINE and code.co_filename.startswith(folders):
                return allowed(*args, **kwargs)
            if code.co_filename.startswith(_TESTS) and code.co_filename != __file__:
                return True
        return True

    return decide
