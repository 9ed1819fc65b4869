"""The table of CRIU's complaints at the end of docs/reference/failures.md, rendered from the one that is searched.

``python -m nodeworker.domain.failure_page`` prints it; a test compares the two, so they cannot drift apart.
"""

from __future__ import annotations

import sys

from nodeworker.domain.criu_complaints import RULES, UNKNOWN

_HEAD = """## CRIU or runc complains

When CRIU or runc fails, these fragments are looked for in the error lines of their logs, in this order, and the first row that fits is reported. This table is
rendered from `nodeworker/domain/criu_complaints.py`.

| Code | Cause | What to do | Seen in the log |
|---|---|---|---|
"""


def render() -> str:
    """Render the section."""
    rows = [
        f"| `{rule.code}` | {_cell(rule.cause)} | {_cell(rule.advice)} | {_fragments(rule.fragments)} |\n"
        for rule in (*RULES, UNKNOWN)
    ]
    return _HEAD + "".join(rows)


def _fragments(fragments: tuple[str, ...]) -> str:
    return ", ".join(f"`{fragment}`" for fragment in fragments) or "anything else"


def _cell(text: str) -> str:
    capitalized = text[:1].upper() + text[1:] if " " in text and text[0].islower() else text
    return capitalized.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
