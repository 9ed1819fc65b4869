"""A snapshot that is stored can be read: the writer of a manifest refuses what its reader would."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import HEADER, KEY, SNAPSHOT

from nodeworker.capture.bounds import Bounds, Tally, measure
from nodeworker.capture.trees import copy_tree
from nodeworker.store import SnapshotStore
from nodeworker.store.snapshots import check_manifest
from woodfrog.protocol.failures import CONDEMNING_CODES, FailureError
from woodfrog.protocol.manifest import TreeName

pytestmark = pytest.mark.timeout(120)


def volume(base: Path, names: list[str]) -> Path:
    root = base / "volume"
    root.mkdir()
    for number, name in enumerate(names):
        (root / name).write_bytes(b"x" * (number % 3))
    return root


def put(base: Path, limit_bytes: int, names: list[str]) -> tuple[SnapshotStore, str]:
    store = SnapshotStore((base / "store").as_uri(), workers=1, limit_manifest_bytes=limit_bytes)
    tree = copy_tree(TreeName.VOLUME, volume(base, names), base / "spool", shared=True, volume="v")
    return store, store.put(HEADER, [tree]).manifest_digest


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text("ab.\n\u00fc", min_size=1, max_size=40).filter(lambda name: name not in {".", ".."}),
        unique=True,
        max_size=12,
    ),
    limit_bytes=st.integers(500, 6000),
)
def test_whatever_is_put_can_be_opened(names: list[str], limit_bytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="wf-") as folder:
        refused = set()
        try:
            store, digest = put(Path(folder), limit_bytes, names)
        except FailureError as problem:
            refused = {problem.failure.code}
        if refused:
            assert refused == {"capture-unfit"}
            assert list((Path(folder) / "store" / str(KEY)).rglob("*.json")) == []
        else:
            assert len(store.open_manifest(KEY, SNAPSHOT, digest).trees) == 1


def test_a_manifest_that_is_too_large_for_this_reader_condemns_nothing(tmp_path: Path) -> None:
    store, digest = put(tmp_path, 1 << 20, [f"{number:0200}" for number in range(100)])
    store.open_manifest(KEY, SNAPSHOT, digest)
    smaller = SnapshotStore((tmp_path / "store").as_uri(), limit_manifest_bytes=10_000)
    with pytest.raises(FailureError) as caught:
        smaller.open_manifest(KEY, SNAPSHOT, digest)
    assert caught.value.failure.code == "snapshot-format-unknown"
    assert caught.value.failure.code not in CONDEMNING_CODES


@pytest.mark.parametrize("field", [b'"snapshot_id":"', b'"version":'])
def test_a_complaint_quotes_no_more_of_a_manifest_than_a_person_reads(field: bytes) -> None:
    data = (Path(__file__).parent / "fuzz/corpus/manifests/manifest.json").read_bytes()
    assert field in data.replace(b" ", b"")
    long = data.replace(b" ", b"").replace(field, field + b"1" * 5000 if field.endswith(b":") else field + b"a" * 5000)
    with pytest.raises(FailureError) as caught:
        check_manifest(long, KEY, SNAPSHOT, shown="it")
    assert len(caught.value.failure.cause) < 1000


def test_names_whose_list_would_be_too_long_are_refused_before_the_freeze_and_while_copying(tmp_path: Path) -> None:
    root, bounds = volume(tmp_path, [f"{number:0200}" for number in range(100)]), Bounds(list_bytes=10_000)
    for take in (
        lambda: measure(root, Tally(bounds)),
        lambda: copy_tree(TreeName.VOLUME, root, tmp_path / "spool", shared=True, volume="v", tally=Tally(bounds)),
    ):
        with pytest.raises(FailureError) as caught:
            take()
        assert caught.value.failure.code == "too-many-files"
