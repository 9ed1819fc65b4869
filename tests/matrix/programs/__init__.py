"""All programs of the matrix, in the order of the page."""

from __future__ import annotations

from typing import Final

from matrix.programs.languages import LANGUAGES
from matrix.programs.python import LEARNING, PYTHON
from matrix.programs.servers import SERVERS
from matrix.programs.tools import TOOLS

PROGRAMS: Final = (*SERVERS, *PYTHON, *LEARNING, *LANGUAGES, *TOOLS)
