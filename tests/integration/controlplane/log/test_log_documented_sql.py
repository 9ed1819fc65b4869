"""docs/reference/sql.md says what is there, and its queries answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.databases import Database
from support.logstory import story

from controlplane.log import EventLog
from controlplane.log.projections.views import CONTRACT

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "sql.md").read_text()
QUERIES = re.findall(r"([^\n]+)\n\n```sql\n(.*?)```", PAGE, re.DOTALL)
ENGINES = ("SQLite", "PostgreSQL")
Sql = Callable[..., list[tuple[object, ...]]]


@pytest.mark.parametrize("view", CONTRACT.values(), ids=CONTRACT)
def test_the_page_names_every_column_of_every_view_in_order(view: object) -> None:
    contract = CONTRACT[view.name]  # type: ignore[attr-defined]
    section = PAGE.split(f"\n## {contract.name}\n")[1].split("\n## ")[0]
    assert contract.row in section
    documented = re.findall(r"^\| `(\w+)` \| \w+ \| (.*) \|$", section, re.MULTILINE)
    assert documented == [(name, meaning) for name, _, meaning in contract.columns]


@pytest.mark.parametrize(("question", "query"), QUERIES, ids=[question for question, _ in QUERIES])
async def test_a_documented_query_has_an_answer(
    log: EventLog, database: Database, sql: Sql, question: str, query: str
) -> None:
    named = [engine for engine in ENGINES if question.endswith(f"n {engine}:")]
    if named and database.engine not in map(str.lower, named):
        with pytest.raises(Exception, match=r"julianday|epoch|syntax|json_each|unrecognized token"):
            sql(query)
        return
    await log.append(story(), epoch=await log.take_lead())
    assert sql(query)


async def test_the_question_of_completeness_is_answered_by_equal_numbers(log: EventLog, sql: Sql) -> None:
    query = next(query for question, query in QUERIES if "complete" in question)
    assert sql(query) == [(0, 0)]
    await log.append(story(), epoch=await log.take_lead())
    assert sql(query) == [(len(story()), len(story()))]
