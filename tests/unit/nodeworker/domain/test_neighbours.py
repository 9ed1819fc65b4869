"""Whose word counts for a file of a volume while another container of the pod runs."""

from __future__ import annotations

import stat

import pytest

from nodeworker.domain.merge_rule import stays
from woodfrog.protocol.manifest import Entry

pytestmark = pytest.mark.timeout(5)

FILE = Entry("a", "file", mtime_ns=1000)
SOCKET = Entry("a", "socket", mtime_ns=1000)


def there(
    entry: Entry = FILE, *, kind: int = stat.S_IFREG, mtime_ns: int = 1000, held: bool = False, returning: bool = False
) -> bool:
    return stays(entry, mode=kind | 0o644, mtime_ns=mtime_ns, held=held, returning=returning)


def test_what_is_held_for_writing_stays_whatever_its_age() -> None:
    assert there(mtime_ns=1, held=True)
    assert there(mtime_ns=1, held=True, returning=True)


def test_the_newer_file_wins_and_the_snapshots_if_they_are_of_one_age() -> None:
    assert there(mtime_ns=1001)
    assert not there(mtime_ns=1000)
    assert not there(mtime_ns=999)


def test_a_container_that_comes_back_takes_its_own_later_steps_back() -> None:
    assert not there(mtime_ns=1001, returning=True)


def test_a_neighbours_socket_stays_and_a_file_in_a_sockets_place_does_not() -> None:
    assert there(SOCKET, kind=stat.S_IFSOCK, mtime_ns=1)
    assert there(SOCKET, kind=stat.S_IFSOCK, mtime_ns=1, returning=True)
    assert not there(SOCKET, mtime_ns=1)
