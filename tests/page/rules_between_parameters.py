"""What schemathesis may not ask of the API: OpenAPI has no words for rules between parameters, nor for the length of them all.

It loads this module by the variable ``SCHEMATHESIS_HOOKS``. The rules themselves are tested in tests/integration/controlplane/http.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import schemathesis

_LONGEST_BYTES = 7000
"""Of a request's line, with room for a path; beyond 8190 aiohttp refuses it before the API sees it."""


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Leave out an id without its namespace, a node in a namespace, and what no request's line can hold."""
    query = case.query or {}
    alone = "id" in query and "namespace" not in query
    both = "node" in query and "namespace" in query
    return not alone and not both and len(urlencode(query)) < _LONGEST_BYTES
