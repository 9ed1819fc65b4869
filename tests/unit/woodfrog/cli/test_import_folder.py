"""What an import that was killed left beside its archive goes with the next import; what another one has does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from woodfrog.cli.import_folder import import_folder

pytestmark = pytest.mark.timeout(10)


def test_what_nobody_has_any_more_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed, begun, other = (tmp_path / name for name in (".woodfrog-import-a", ".woodfrog-import-b", "archive.tar"))
    (killed / "below").mkdir(parents=True)
    begun.mkdir()
    other.write_text("an archive")
    (tmp_path / ".woodfrog-import-link").symlink_to(begun)
    os.utime(killed, (1, 1))
    with import_folder(tmp_path) as first:
        assert not killed.exists()
        os.utime(first, (1, 1))
        with import_folder(tmp_path) as second:
            assert first.is_dir()
            assert second.is_dir()
        assert not second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".woodfrog-import-b",
        ".woodfrog-import-link",
        "archive.tar",
    ]


def test_it_goes_with_whoever_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), import_folder(tmp_path):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []
