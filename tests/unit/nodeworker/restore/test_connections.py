"""Which connections are found to be inside, and what is done where a dump or a restore fails because of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.capture import network, watches
from nodeworker.capture.criu.spool import Spool
from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.watches import paths_image
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.dump import connections as dumped
from nodeworker.restore import connections
from woodfrog.protocol.failures import Failure, FailureError

pytestmark = pytest.mark.timeout(20)

PAIR = """
import socket, sys
server = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, dualstack_ipv6=sys.argv[1] == "::")
client = socket.create_connection((sys.argv[2], server.getsockname()[1])) if sys.argv[2] != "-" else None
accepted = server.accept() if client else None
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PAIR, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield begin
    for process in started:
        process.communicate("")


@pytest.mark.parametrize(("listens", "calls"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_a_connection_of_a_process_to_itself_is_inside(start: Callable[..., int], listens: str, calls: str) -> None:
    assert network.has_inner_connections([start(listens, calls)])


def test_the_tables_of_a_network_are_read_once_for_all_its_processes(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = start("127.0.0.1", "-"), start("127.0.0.1", "-")
    read: list[str] = []
    text = Path.read_text

    def read_text(path: Path) -> str:
        read.append(str(path))
        return text(path).splitlines()[0]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert not network.has_inner_connections([first, second])
    assert read == [f"/proc/{first}/net/tcp", f"/proc/{first}/net/tcp6"]


def test_a_listener_has_no_connection_and_neither_has_a_process_that_ended(start: Callable[..., int]) -> None:
    assert not network.has_inner_connections([start("127.0.0.1", "-")])
    assert not network.has_inner_connections([4_000_000])


def test_connections_of_others_in_the_same_network_do_not_count(start: Callable[..., int]) -> None:
    start("127.0.0.1", "127.0.0.1")
    assert not network.has_inner_connections([start("127.0.0.1", "-")])


def test_the_addresses_of_a_network_are_read_with_one_that_stands_for_all() -> None:
    found = network.of(network.OURS)
    assert found is not None
    assert ip_address("127.0.0.1") in found.addresses
    assert not any(address.is_loopback for address in found.own.values())
    assert network.of(Path("/none")) is None


class Dump:
    """A dump that says which configuration it was made with, and fails if it is told to."""

    def __init__(
        self, folder: Path, failures: list[str], monkeypatch: pytest.MonkeyPatch, *, inside: bool = True
    ) -> None:
        monkeypatch.setattr(network, "has_inner_connections", lambda _pids: inside)
        self.spool = Spool(folder / "spool")
        self.spool.make()
        self.configs: list[str] = []
        self._failures = failures
        freezer = SimpleNamespace(pids=lambda: [os.getpid()])
        self.plan: Any = SimpleNamespace(
            criu=CriuConfig("4.2"), criu_config=folder / "criu.conf", freezer=freezer, watches={(5, 6): "/srv/w"}
        )

    def _checkpoint(self) -> None:
        self.configs.append(self.plan.criu_config.read_text())
        (self.spool.images / f"part-{len(self.configs)}").touch()
        if self._failures:
            raise FailureError(Failure(self._failures.pop(0), "as told", ""))
        script = next(line for line in self.configs[-1].splitlines() if line.startswith("action-script ")).split()[1]
        subprocess.run([script], env={"CRTOOLS_SCRIPT_ACTION": "post-dump"}, check=True)

    def run(self) -> str:
        return dumped.dump(self.plan, self.spool, self._checkpoint, lambda: "files")


def test_a_dump_that_fails_because_of_a_connection_is_made_once_more_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = Dump(tmp_path, ["tcp-state"], monkeypatch)
    assert dump.run() == "files"
    assert ["tcp-established" in text for text in dump.configs] == [True, False]
    assert "tcp-close" in dump.configs[1]
    assert [path.name for path in dump.spool.images.iterdir()] == ["part-2"], "nothing is left of the first"
    assert (dump.spool.work / "irmap-cache").read_bytes() == paths_image({(5, 6): "/srv/w"})


@pytest.mark.parametrize(("code", "inside"), [("criu-failed", True), ("tcp-state", False)])
def test_any_other_failure_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, *, inside: bool
) -> None:
    dump = Dump(tmp_path, [code], monkeypatch, inside=inside)
    with pytest.raises(FailureError) as problem:
        dump.run()
    assert problem.value.failure.code == code
    assert ["tcp-established" in text for text in dump.configs] == [inside]


def test_images_that_are_not_understood_are_restored_with_all_connections_closed(tmp_path: Path) -> None:
    (tmp_path / "inventory.img").write_bytes(b"nonsense")
    live: Any = SimpleNamespace(network=None, has_hooks=False)
    assert connections.prepare(tmp_path, live) == connections.Restored()


def test_the_list_of_watched_paths_is_written_as_criu_reads_it() -> None:
    image = paths_image({(0x39D, 7): "/srv/a", (0x39D, 8): "/srv/\udcff"})
    assert image[:8] == bytes.fromhex("40591055") + bytes.fromhex("59400057")
    common = form.write_messages([], form.FILES)
    entries = form.read_messages(common + image[8:], form.FILES, "entries")
    assert [(one.uint32(1), one.uint64(2), one.text(3)) for one in entries] == [
        (0x39D, 7, "/srv/a"),
        (0x39D, 8, "/srv/\udcff"),
    ]


def test_who_watches_nothing_needs_nothing_to_be_looked_for() -> None:
    pids = [os.getpid(), 4_000_000]
    assert watches.find(watches.watchers(pids), pids, os.getpid()) == {}
