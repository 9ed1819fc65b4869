"""What the doctor says of a control plane's database, from its URL alone."""

from __future__ import annotations

import pytest

from woodfrog.cli.controlplane_doctor import database


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("sqlite+aiosqlite:////var/lib/woodfrog/log.db", "ok"),
        ("postgresql+asyncpg://u:secret@db/woodfrog?ssl=verify-full", "ok"),
        ("postgresql://u@127.0.0.1/woodfrog", "ok"),
        ("postgresql:///woodfrog?host=/run/postgresql", "ok"),
        ("postgresql+asyncpg://u:secret@db/woodfrog", "warning"),
        ("postgresql://u:secret@db/woodfrog?ssl=require", "warning"),
        ("postgresql://u:secret@db/woodfrog?ssl=verify-ca", "warning"),
        (None, "warning"),
    ],
)
def test_a_database_across_a_network_is_to_prove_who_it_is(url: str | None, state: str) -> None:
    found = database(url)
    assert found.state == state
    assert "secret" not in found.found + found.advice
