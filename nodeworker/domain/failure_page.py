"""The page docs/reference/failures.md, rendered from the table, so that the two cannot drift apart.

``python -m nodeworker.domain.failure_page > docs/reference/failures.md`` writes it; a test compares the two.
"""

from __future__ import annotations

import sys

from nodeworker.domain.criu_failures import RULES, UNKNOWN

_HEAD = """# Failures of dumps and restores

When CRIU or runc fails, Woodfrog looks for these fragments in the error lines of their logs, in this order, and reports the
first row that fits: on the pod, in `woodfrog why`, and in the views `failures` and `checkpoint_history`. The code is stable,
fit for counting and alerting; the last lines of the log come with it as detail. This page is rendered from
`nodeworker/domain/criu_failures.py`.

| Code | Cause | What to do | Seen in the log |
|---|---|---|---|
"""


def render() -> str:
    """Render the page."""
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
