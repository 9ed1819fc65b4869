"""The files of snapshots: listed, read and compared, a row and a chunk at a time."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import woodfrog
from support.criu_images import PLAIN, load
from support.snapshots import HEADER, MIB, Place, noise, refusal
from typer.testing import Result

from nodeworker.capture.trees import CapturedTree
from nodeworker.domain.criu_images import MalformedImageError, form
from nodeworker.domain.criu_images.memory import Process, read_processes
from nodeworker.domain.criu_images.protobuf import number_field
from nodeworker.store import SnapshotStore
from woodfrog.cli import snapshot_diff, snapshot_files
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.manifest import Entry, Manifest, TreeName
from woodfrog.service.printable import printable_output

pytestmark = pytest.mark.timeout(60)

OLD, NEW = "20261123T214501Z-00000001", "20261123T214601Z-00000002"
DAY_NS = 86_400_000_000_000
HOSTILE = b"\x1b[2J\xff\n"


class Two:
    """Two snapshots of one container, and the verbs that look into them."""

    def __init__(self, base: Path) -> None:
        self.place = Place(base)
        self.base = base
        big = noise(MIB) + bytes(MIB)
        self.manifests = {
            OLD: self._put(
                OLD,
                b"one",
                {"log": b"1\n2\n", "big": big, "gone": b"x", "same": b"s", "hostile": HOSTILE},
                mtime_ns=DAY_NS,
            ),
            NEW: self._put(
                NEW, b"two", {"log": b"1\n2\n3\n", "big": big[:-1] + b"!", "new": b"", "same": b"s", "hostile": HOSTILE}
            ),
        }

    def _put(self, name: str, memory: bytes, contents: dict[str, bytes], mtime_ns: int = 2 * DAY_NS) -> Manifest:
        for image, data in {**load(PLAIN), "pages-1.img": noise(MIB) + memory}.items():
            self.place.write(image, data)
        files = {}
        for each, data in contents.items():
            files[f"var/{each}"] = self.base / f"{name}-{each}"
            files[f"var/{each}"].write_bytes(data)
        mode = 0o600 if name == OLD else 0o644
        entries = (
            Entry("var", "directory", 0o755, mtime_ns=mtime_ns),
            *(
                Entry(f"var/{each}", "file", mode if each == "same" else 0o600, 7, 8, mtime_ns, len(data))
                for each, data in contents.items()
            ),
            Entry("var/other", "file", 0o600, 7, 8, mtime_ns, hardlink="var/log"),
            Entry("var/to", "symlink", 0o777, target="/log"),
            Entry("var/wiped", "whiteout"),
        )
        trees = [
            self.place.listed(),
            CapturedTree(TreeName.LAYER, entries, files),
            replace(CapturedTree(TreeName.VOLUME, (Entry("v", "fifo", 0o600),), {}), volume="cache"),
        ]
        header = replace(HEADER, snapshot_id=SnapshotId(name))
        stored = self.place.store.put(header, trees)
        return self.place.store.open_manifest(header.key, header.snapshot_id, stored.manifest_digest)

    @contextmanager
    def opened(self, snapshot: str, *_: object) -> Iterator[tuple[SnapshotStore, Manifest]]:
        yield self.place.store, self.manifests[snapshot]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    made = Two(tmp_path)
    monkeypatch.setattr(snapshot_files, "opened", made.opened)
    return made


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("two")
def test_files_are_listed_with_what_they_are() -> None:
    rows = json.loads(said(woodfrog("get", "files", NEW, "--tree", "layer", "-o", "json")))
    by_path = {row["path"]: row for row in rows}
    assert (by_path["var/log"]["mode"], by_path["var/log"]["size_bytes"]) == ("-rw-------", 6)
    assert by_path["var/log"]["modified_at"] == "1970-01-03T00:00:00+00:00"
    assert (by_path["var/to"]["kind"], by_path["var/to"]["target"]) == ("symlink", "/log")
    assert by_path["var/other"]["target"] == "var/log"
    table = said(woodfrog("get", "files", NEW, "/var/"))
    assert "drwxr-xr-x   0:0     0 B" in table
    assert "var/to -> /log\n" in table
    assert "var/other = var/log\n" in table
    assert "var/wiped (deleted)\n" in table
    assert "pages-1.img" not in table
    assert said(woodfrog("get", "files", NEW, "var/log", "-o", "name")) == "var/log\n"
    assert said(woodfrog("get", "files", NEW, "--tree", "cache", "-o", "yaml")).startswith("- tree: volume cache\n")
    assert said(woodfrog("get", "files", NEW, "--tree", "cache", "-o", "wide")).splitlines()[1].split()[2] == "v"
    nothing = woodfrog("get", "files", NEW, "nowhere")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert json.loads(said(woodfrog("get", "files", NEW, "nowhere", "-o", "json"))) == []
    wrong = woodfrog("get", "files", NEW, "--tree", "layers")
    assert wrong.exit_code == 2
    assert "it has: processes, layer, volume cache" in wrong.output


@pytest.mark.usefixtures("two")
def test_a_file_is_written_out_byte_for_byte() -> None:
    whole = woodfrog("cat", OLD, "var/big")
    assert (whole.exit_code, whole.stdout_bytes) == (0, noise(MIB) + bytes(MIB))
    assert woodfrog("cat", NEW, "/var/other").stdout_bytes == b"1\n2\n3\n"
    assert woodfrog("cat", NEW, "pages-1.img", "--tree", "processes").stdout_bytes == noise(MIB) + b"two"
    for path, tree in (("var/gone", "layer"), ("var", "layer"), ("var/to", "layer"), ("v", "cache")):
        refused = woodfrog("cat", NEW, path, "--tree", tree)
        assert refused.exit_code == 1
        assert "file-unknown" in refused.output


def test_a_broken_byte_is_not_written_out(two: Two) -> None:
    for pack in two.place.root.rglob("*.pack"):
        pack.write_bytes(bytes(byte ^ 1 for byte in pack.read_bytes()))
    assert "snapshot-corrupt" in woodfrog("cat", OLD, "var/big").output


def test_a_terminal_does_not_take_a_file_for_orders(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    manifest = two.manifests[OLD]
    with printable_output(), two.place.store.reader(manifest) as reader:
        snapshot_files.write_content(manifest, reader, snapshot_files.file_of(manifest.trees[1], "var/hostile"))
    assert shown.getvalue() == "\\u001b[2J\\xff\n"


@pytest.mark.usefixtures("two")
def test_two_snapshots_are_compared() -> None:
    told = json.loads(said(woodfrog("diff", OLD, NEW, "-o", "json")))
    rows = {row["path"]: row for row in told["files"]}
    assert {path: (row["change"], row["what"]) for path, row in rows.items()} == {
        "var/big": ("changed", ["content"]),
        "var/gone": ("removed", ["file"]),
        "var/log": ("changed", ["content"]),
        "var/new": ("added", ["file"]),
        "var/other": ("changed", ["content"]),
        "var/same": ("changed", ["mode"]),
    }
    assert (rows["var/log"]["size_bytes_before"], rows["var/other"]["size_bytes_after"]) == (4, 6)
    assert told["memory"] == {
        "bytes_before": MIB + 3,
        "bytes_after": MIB + 3,
        "bytes_not_in_before": 3,
        "bytes_changed": 0,
    }
    assert (told["processes"]["added"], told["processes"]["changed"]) == ([], [])
    table = said(woodfrog("diff", OLD, NEW))
    assert "memory: 1.0 MiB before, 1.0 MiB after, 0 B of it changed\n" in table
    assert any(line.split() == ["added", "layer", "-", "0", "B", "file", "var/new"] for line in table.splitlines())
    same = woodfrog("diff", OLD, OLD)
    assert "no file differs" in same.output


def test_processes_are_listed_with_their_memory() -> None:
    images = load(PLAIN)
    pids = [each.pid for each in read_processes(images, 4096)]
    runs = [(1, 2, 4, None), (2, 3, 1, None), (3, 1, 4, 5)]
    written = [number_field(1, 1)]
    for address, pages, flags, pages_64 in runs:
        more = b"" if pages_64 is None else number_field(5, pages_64)
        written.append(number_field(1, address) + number_field(2, pages) + number_field(4, flags) + more)
    images[f"pagemap-{pids[0]}.img"] = form.write_messages(written, form.PAGEMAP)
    first, *others = read_processes(images, 4096)
    assert (first.threads, first.memory_bytes) == (3, 7 * 4096)
    assert first.name
    assert all(each.memory_bytes == 0 for each in others)
    added = {
        "before": 0,
        "after": 12,
        "added": [Process(n, "sh", 1, 0) for n in range(12)],
        "removed": [],
        "changed": [],
    }
    memory = {"bytes_before": 0, "bytes_after": 0, "bytes_not_in_before": 7, "bytes_changed": None}
    lines = list(snapshot_diff.sentences({"processes": added, "memory": memory}))
    assert lines[1:3] == ["  added: 0 sh, 1 thread, 0 B", "  added: 1 sh, 1 thread, 0 B"]
    assert lines[-2] == "  added: 2 more"
    assert lines[-1] == "memory: 0 B before, 0 B after, 7 B of it not in the one before"
    images["pstree.img"] = b"nothing"
    with pytest.raises(MalformedImageError):
        read_processes(images, 4096)


def test_memory_is_compared_page_by_page_wherever_the_pages_lie(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = two.manifests[OLD], two.manifests[NEW]
    images = {**load(PLAIN), "pages-1.img": noise(MIB)}
    pid = read_processes(images, 4096)[0].pid
    head = number_field(1, 1)

    def with_pages(*runs: tuple[int, int], pages: bytes) -> dict[str, bytes]:
        """Give the first process runs of pages by address and number, and no other any."""
        listed = [
            head,
            *(number_field(1, address) + number_field(2, count) + number_field(4, 4) for address, count in runs),
        ]
        return {name: data for name, data in images.items() if not name.startswith("pagemap-")} | {
            f"pagemap-{pid}.img": form.write_messages(listed, form.PAGEMAP),
            "pages-1.img": pages,
        }

    one, two_, three = noise(4096), b"2" * 4096, b"3" * 4096
    was = with_pages((0x10000, 2), pages=one + two_)
    now = with_pages((0x8000, 1), (0x10000, 2), pages=three + one + two_[:-1] + b"!")
    assert snapshot_diff.changed_bytes(was, was, old, new) == 0
    assert snapshot_diff.changed_bytes(was, now, old, new) == 2 * 4096
    assert snapshot_diff.changed_bytes(was, with_pages((0x10000, 3), pages=one), old, new) is None
    monkeypatch.setattr(snapshot_diff, "_LARGEST_IMAGE_BYTES", 4096)
    assert snapshot_diff.changed_bytes(was, now, old, new) is None


def test_refusals_have_a_code(two: Two) -> None:
    tree = two.manifests[OLD].trees[1]
    assert refusal(lambda: snapshot_files.file_of(tree, "nowhere")).failure.code == "file-unknown"
