"""Kept layers: the newest stays, the bounds take the oldest, and nothing else deletes one."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from woodfrog.local import overlay
from woodfrog.local.interrupts import deferred, interruptible
from woodfrog.local.kept_layers import LONGEST, MOST, MOST_BYTES, Layer, Layers, overdue
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey

pytestmark = pytest.mark.timeout(5)

KEY = CheckpointKey("local", "default", "job")
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def layer(name: str, hours_ago: float = 0.0, size_bytes: int = 1) -> Layer:
    kept_at = NOW - timedelta(hours=hours_ago)
    return Layer(
        layer=name, id="job", namespace="default", kept_at=kept_at, bytes=size_bytes, rootfs="/", why="it broke"
    )


def filled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "data").write_text(text)
    return folder


def test_the_oldest_go_when_there_are_too_many_too_large_or_too_old() -> None:
    many = [layer(f"l{number}", number + 1) for number in range(MOST)]
    assert [each.layer for each in overdue(many, layer("new"), NOW)] == [f"l{MOST - 1}"]
    large = [layer("small", 2), layer("large", 1, MOST_BYTES)]
    assert [each.layer for each in overdue(large, layer("new"), NOW)] == ["small", "large"]
    old = [layer("old", LONGEST / timedelta(hours=1) + 1), layer("young", 1)]
    assert [each.layer for each in overdue(old, layer("new"), NOW)] == ["old"]


def test_the_newest_is_kept_however_large_it_is() -> None:
    assert overdue([], layer("new", size_bytes=2 * MOST_BYTES), NOW) == []


def test_a_layer_is_kept_and_taken_with_its_files(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    assert layers.keep(filled(tmp_path / "one", "1"), KEY, "c1", Path("/"), "it broke") == []
    assert layers.keep(filled(tmp_path / "two", "2"), KEY, "c2", Path("/"), "it broke") == []
    assert [each.layer for each in layers.of(KEY)] == ["c1", "c2"]
    assert not (tmp_path / "one").exists()
    (tmp_path / "upper").mkdir()
    assert layers.take(KEY, "", Path("/"), tmp_path / "upper").layer == "c2"
    assert (tmp_path / "upper" / "data").read_text() == "2"
    assert [each.layer for each in layers.all()] == ["c1"]


def test_an_empty_layer_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    assert Layers(tmp_path / "layers").keep(tmp_path / "upper", KEY, "c1", Path("/"), "it broke") is None


def test_what_cannot_be_taken_stays(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layers.keep(filled(tmp_path / "one", "1"), KEY, "c1", Path("/"), "it broke")
    (tmp_path / "upper").mkdir()
    with pytest.raises(FailureError, match="layer-unfit"):
        layers.take(KEY, "c1", Path("/other"), tmp_path / "upper")
    with pytest.raises(FailureError, match="no-layer"):
        layers.take(KEY, "c9", Path("/"), tmp_path / "upper")
    with pytest.raises(FailureError, match="no-layer"):
        layers.remove("../..")
    assert [each.layer for each in layers.all()] == ["c1"]
    layers.remove("c1")
    assert layers.all() == []


def test_a_layer_that_was_taken_is_kept_again_if_nothing_can_be_mounted_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, lower, place = Layers(tmp_path / "layers"), tmp_path / "lower", tmp_path / "containers/c2"
    lower.mkdir()
    layers.keep(filled(tmp_path / "one", "1"), KEY, "c1", lower, "it broke")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(16, "busy")

    monkeypatch.setattr(overlay.libc, "mount", refuse)
    with pytest.raises(FailureError, match="overlay-failed"):
        overlay.ContainerDirectory.create(
            place,
            lower,
            lambda into: layers.take(KEY, "", lower, into),
            lambda upper: layers.keep(upper, KEY, "c2", lower, "it could not be created"),
        )
    assert not place.exists()
    assert [each.layer for each in layers.of(KEY)] == ["c2"]
    assert (tmp_path / "layers/c2/upper/data").read_text() == "1"


def test_a_signal_that_comes_while_a_layer_is_moved_ends_what_follows() -> None:
    done: list[str] = []
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()

    def interrupted() -> None:
        with interruptible(), ExitStack() as made:
            with deferred():
                assert other.ident is not None
                signal.pthread_kill(other.ident, signal.SIGTERM)  # as the kernel may: it takes any thread
                time.sleep(0.2)
                made.callback(done.append, "kept")
            done.append("never")

    with pytest.raises(SystemExit):
        interrupted()
    over.set()
    other.join()
    assert done == ["kept"]
