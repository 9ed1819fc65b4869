"""What a pod's annotations mean, and the page that explains them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodeworker.domain import checkpoint_options
from nodeworker.domain.checkpoint_options import CheckpointOptions, InvalidWishError

pytestmark = pytest.mark.timeout(5)

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "annotations.md"
OF_THE_WATCHER = {"woodfrog.io/checkpoint"}


def test_without_annotations_everything_travels_up_to_the_default_limit() -> None:
    assert checkpoint_options.read({"somebody.else/volumes": "none"}) == CheckpointOptions()
    assert CheckpointOptions().volumes_limit_bytes == 10 << 30
    assert CheckpointOptions().takes_volume("any")


def test_every_annotation_is_read() -> None:
    read = checkpoint_options.read(
        {
            "woodfrog.io/interval": "10m",
            "woodfrog.io/volumes": "work, state",
            "woodfrog.io/volumes-limit": "2GiB",
            "woodfrog.io/shm": "off",
            "woodfrog.io/on-stop": "ignore",
            "woodfrog.io/require-restore": "true",
        }
    )
    assert read == CheckpointOptions(
        interval_seconds=600,
        volumes=frozenset({"work", "state"}),
        volumes_limit_bytes=2 << 30,
        shm=False,
        dump_on_stop=False,
        require_restore=True,
    )
    assert (read.takes_volume("work"), read.takes_volume("cache")) == (True, False)


def test_none_is_no_volume_at_all() -> None:
    assert not checkpoint_options.read({"woodfrog.io/volumes": "none"}).takes_volume("none")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("woodfrog.io/interval", "10"),
        ("woodfrog.io/volumes", ""),
        ("woodfrog.io/volumes", "a,,b"),
        ("woodfrog.io/volumes-limit", "lots"),
        ("woodfrog.io/shm", "yes"),
        ("woodfrog.io/on-stop", "Dump"),
        ("woodfrog.io/require-restore", "1"),
        ("woodfrog.io/rehearse", "on"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidWishError, match=name):
        checkpoint_options.read({name: text})


def test_the_page_explains_exactly_the_annotations_that_are_read() -> None:
    rows = re.findall(r"^\| `(woodfrog\.io/[a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({*checkpoint_options.ANNOTATIONS, *OF_THE_WATCHER})
