"""One HTML file about a run, which needs nothing else to be read."""

from __future__ import annotations

from html import escape

from .campaign import Campaign

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%;margin:1em 0}th,td{text-align:left;padding:.25em .6em;border-bottom:1px solid #ddd;vertical-align:top}
.zero{color:#197a35}.bad{color:#b00020;font-weight:600}.harm{color:#a05a00}details{margin:.2em 0}
"""


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}</table>"


def render(run: Campaign) -> str:
    """Write the report."""
    rules = [
        _row(escape(rule), f'<span class="{"bad" if count else "zero"}">{count}</span>')
        for rule, count in run.counts.items()
    ]
    broken = [_row(escape(each.rule), escape(each.key), escape(each.about)) for each in run.violations]
    failed = [
        _row(*map(escape, (each.what, each.example.code, str(each.times), each.example.cause, each.example.advice)))
        for each in run.failed
    ]
    ids = [
        _row(
            escape(one.name),
            str(len(one.starts)),
            f"<details><summary>{escape(one.outcome[:160])}</summary>{'<br>'.join(map(escape, one.starts))}</details>",
        )
        for one in run.all
    ]
    acts = [
        _row(f"{act.at:.1f}", escape(act.name), escape(act.what), f'<span class="harm">{escape(act.harm)}</span>', escape(act.result[:300]))
        for act in run.acts
    ]  # fmt: skip
    harmed = sum(bool(act.harm) for act in run.acts)
    kinds = len({one.program.kind for one in run.all})
    summary = (
        f"<p>{len(run.all)} ids of {kinds} kinds, {len(run.acts)} acts, {harmed} of them harmed, "
        f"{len(run.log)} events, {run.took:.0f} s.</p>"
    )
    parts = [
        f"<h1>Chaos run, seed {run.seed}</h1>",
        summary,
        "<h2>Invariants</h2>",
        _table(("Rule", "Violations"), rules),
        _table(("Rule", "Id", "What"), broken) if broken else "",
        "<h2>Failures</h2>",
        _table(("What", "Code", "Number", "Cause of the first", "Advice"), failed),
        "<h2>Ids</h2>",
        _table(("Id", "Starts", "Last start (open for all)"), ids),
        "<h2>Acts</h2>",
        _table(("Second", "Id", "What", "Harm", "Result"), acts),
    ]
    return f'<!doctype html><meta charset="utf-8"><title>Chaos run {run.seed}</title><style>{_STYLE}</style>{"".join(parts)}'
