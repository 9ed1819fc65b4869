"""Links in an image are followed as the runtime follows them, and never out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.capture.container_paths import resolved

pytestmark = pytest.mark.timeout(10)


@pytest.mark.parametrize(
    ("place", "there"),
    [
        ("/var/run/secrets/token", "/run/secrets/token"),
        ("/up/etc", "/etc"),
        ("/out/passwd", "/etc/passwd"),
        ("/loop/x", "/loop/x"),
        ("/plain/./file", "/plain/file"),
        ("/", "/"),
        ("/nothing/there", "/nothing/there"),
    ],
)
def test_a_place_is_where_its_links_lead(tmp_path: Path, place: str, there: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "up").symlink_to("../../../..")
    (tmp_path / "out").symlink_to("/var/run/../../etc")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "plain").mkdir()
    assert resolved(tmp_path, place) == there
