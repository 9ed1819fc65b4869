"""Standard streams that somebody has closed (``woodfrog run ... >&-``): what would go there goes nowhere.

Otherwise the next file that is opened would take the number of the closed one, and a container would write into it.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_NAMES: Final = ("stdin", "stdout", "stderr")


def reopen() -> None:
    """Have all three lead somewhere."""
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.dup(number), "r" if number == 0 else "w"))
