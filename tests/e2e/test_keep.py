"""Snapshots at an interval, kept and deleted by policy, pinned, set aside and deleted by people; on a whole stack."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.stack import Stack, running, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"]
POLICY = """
grace = "1s"
[default]
keep_last = 2
[ids."default/hoarder"]
keep_last = 1000
"""


@pytest.fixture(scope="module")
def keeping() -> Iterator[Stack]:
    """A stack that keeps the last two snapshots of an id, in whatever order its tests run."""
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        policy = Path(path) / "policy.toml"
        policy.write_text(POLICY)
        with running(Path(path) / "s", {"WOODFROG_POLICY_FILE": str(policy)}) as stack:
            yield stack


def in_store(stack: Stack, checkpoint_id: str) -> set[str]:
    """The snapshots of which the store's directory holds anything."""
    folder = stack.store / "local" / "default" / checkpoint_id
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def history(stack: Stack, checkpoint_id: str) -> dict[str, dict[str, Any]]:
    return {row["snapshot_id"]: row for row in stack.json("get", "snapshots", checkpoint_id)}


def with_status(stack: Stack, checkpoint_id: str, status: str) -> list[str]:
    return [name for name, row in history(stack, checkpoint_id).items() if row["status"] == status]


def taken(stack: Stack, checkpoint_id: str, count: int) -> list[str]:
    """Run a container, take ``count`` snapshots of it and end it without another."""
    run = stack.run(checkpoint_id, *COUNT)
    run.until_lines("/count", 3)
    names = [stack.json("checkpoint", checkpoint_id)["snapshot_id"] for _ in range(count)]
    os.kill(run.init_pid(), 9)
    run.wait()
    until(lambda: "container.ended" in stack.types(checkpoint_id), saying="the container has ended")
    return names


def test_an_interval_makes_snapshots_of_which_the_policy_keeps_two_and_the_id_goes_on(keeping: Stack) -> None:
    run = keeping.run("metronome", *COUNT, options=("--interval", "1s"))
    until(lambda: len(with_status(keeping, "metronome", "deleted")) >= 3, 90, saying="three snapshots are deleted")
    rows = history(keeping, "metronome")
    assert {row["trigger"] for row in rows.values()} == {"schedule"}
    assert all(not row["final"] for row in rows.values())
    frozen = sorted((row["dump_started_at"], row["captured_at"]) for row in rows.values() if row["captured_at"])
    assert all(ended <= began for (_, ended), (began, _) in pairwise(frozen)), "two at once"
    run.stop()
    keeping.until_stored("metronome", len(frozen) + 1)
    until(lambda: len(in_store(keeping, "metronome")) == 2, 30, saying="the store holds two")
    assert in_store(keeping, "metronome") == set(with_status(keeping, "metronome", "valid"))
    counted = len(run.lines("/count"))
    again = keeping.run("metronome", *COUNT)
    lines = again.until_lines("/count", counted + 5)
    assert lines[: counted + 5] == [str(number) for number in range(1, counted + 6)]
    assert again.container["restored_from"] in in_store(keeping, "metronome")
    again.stop()


def test_a_pin_wins_until_it_is_taken_away(keeping: Stack) -> None:
    first, _, last = taken(keeping, "hoarder", 3)
    said = keeping.cli("pin", first, "--because", "known to be good").stdout
    assert first in said
    assert history(keeping, "hoarder")[first]["pinned_reason"] == "known to be good"
    assert keeping.json("choose", "hoarder", "--node", "localhost")["snapshot_id"] == first
    run = keeping.run("hoarder", *COUNT)
    assert run.container["restored_from"] == first
    os.kill(run.init_pid(), 9)
    run.wait()
    keeping.cli("unpin", first)
    chosen = keeping.json("choose", "hoarder", "--node", "localhost")
    assert (chosen["answer"], chosen["snapshot_id"]) == ("restore", last)


def test_what_is_invalidated_is_passed_over_and_what_is_deleted_leaves_the_store(keeping: Stack) -> None:
    older, newest = taken(keeping, "wrong", 2)
    refused = keeping.cli("delete", newest, check=False)
    assert refused.returncode == 1
    assert "latest-snapshot" in refused.stderr
    before = datetime.now(UTC)
    keeping.cli("invalidate", newest, "--because", "holds a wrong result")
    told = keeping.json("choose", "wrong", "--node", "localhost")
    assert told["snapshot_id"] == older
    assert "holds a wrong result" in told["reason"]
    then = keeping.json("choose", "wrong", "--node", "localhost", "--at", before.isoformat())
    assert then["snapshot_id"] == newest
    keeping.cli("delete", newest)
    assert in_store(keeping, "wrong") == {older}
    assert keeping.cli("invalidate", newest, check=False).returncode == 2  # without a reason
    assert "unknown-snapshot" in keeping.cli("pin", "20260101T000000Z-00000000", check=False).stderr


def test_a_forgotten_id_leaves_the_store_and_its_next_start_is_that_of_a_new_one(keeping: Stack) -> None:
    running = keeping.run("unwanted", *COUNT)
    running.until_lines("/count", 3)
    keeping.json("checkpoint", "unwanted")
    assert "id-in-use" in keeping.cli("forget", "unwanted", "--force", check=False).stderr
    os.kill(running.init_pid(), 9)
    running.wait()
    until(lambda: "container.ended" in keeping.types("unwanted"), saying="the container has ended")
    refused = keeping.cli("forget", "unwanted", check=False)
    assert (refused.returncode, "latest-snapshot" in refused.stderr) == (1, True)
    said = keeping.cli("forget", "unwanted", "--force", "--because", "it is not needed").stdout
    assert said == "unwanted is forgotten, 1 snapshot deleted: its next start is that of a new id\n"
    assert in_store(keeping, "unwanted") == set()
    assert "forgotten, as was requested: it is not needed" in keeping.cli("history", "unwanted").stdout
    assert "unknown-id" in keeping.cli("forget", "unwanted", check=False).stderr
    assert "unwanted" not in keeping.cli("get", "ids", "-o", "name").stdout.split()
    assert {row["id"]: row["state"] for row in keeping.json("get", "ids", "--forgotten")}["unwanted"] == "forgotten"
    again = keeping.run("unwanted", *COUNT)
    assert "unwanted" in keeping.cli("get", "ids", "-o", "name").stdout.split()
    assert again.until_lines("/count", 3)[:2] == ["1", "2"]
    os.kill(again.init_pid(), 9)
    again.wait()


def test_a_snapshot_can_be_looked_into_and_exported(keeping: Stack, tmp_path: Path) -> None:
    name, later = taken(keeping, "looked-into", 2)
    told = keeping.json("inspect", name)
    assert (told["id"], told["snapshot_id"]) == ("looked-into", name)
    assert {tree["tree"] for tree in told["trees"]} >= {"processes", "layer"}
    assert keeping.json("export", name, str(tmp_path / "c.tar"))["bytes"] == (tmp_path / "c.tar").stat().st_size
    with tarfile.open(tmp_path / "c.tar") as tar:
        names = tar.getnames()
        assert {"config.dump", "spec.dump", "checkpoint/inventory.img", "checkpoint/pages-1.img"} <= set(names)
        with tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar")) as layer:
            counted = layer.extractfile("count")
            assert counted is not None
            lines = counted.read()
            assert lines.startswith(b"1\n2\n3\n")
    (row,) = keeping.json("get", "files", name, "/count")
    assert (row["tree"], row["mode"], row["size_bytes"]) == ("layer", "-rw-r--r--", len(lines))
    assert keeping.cli("cat", name, "/count").stdout == lines.decode()
    differences = keeping.json("diff", name, later)
    assert [(each["path"], each["what"]) for each in differences["files"]] == [("count", ["content"])]
    assert differences["processes"]["before"] >= 1
    assert 0 < differences["memory"]["bytes_not_in_before"] <= differences["memory"]["bytes_after"]
    told = keeping.cli("diff", name, later).stdout
    assert " sh: " in told or " sleep" in told


def test_an_exported_snapshot_is_imported_into_another_empty_stack_and_the_state_goes_on() -> None:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        state, archive = Path(path) / "s", f"{path}/t.tar"
        with running(state) as one:
            (name,) = taken(one, "traveller", 1)
            digest = one.json("export", name, archive)["digest"]
        state.rename(Path(path) / "another-machine")  # where a state directory lies, every container has a mount
        with tarfile.open(archive) as tar, tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar")) as layer:
            counted = layer.extractfile("count")
            assert counted is not None
            before = counted.read().split()
        with running(state) as other:
            told = other.json("import", archive, "--digest", digest, "--because", "moved house")
            assert told["origin"] == f"local/default/traveller/{name}"
            assert told["snapshot_id"] != name
            assert "archive-corrupt" in other.cli("import", archive, "--digest", "0" * 64, check=False).stderr
            (row,) = other.json("get", "snapshots", "traveller")
            assert (row["status"], row["trigger"], row["snapshot_id"]) == ("valid", "import", told["snapshot_id"])
            (event,) = other.history("traveller")
            assert (event["type"], event["metadata"]["actor"]) == ("snapshot.imported", "request")
            assert event["data"]["reason"] == "moved house"
            run = other.run("traveller", *COUNT)
            assert run.container["restored_from"] == told["snapshot_id"], other.cli("why", "traveller").stdout
            assert "id-in-use" in other.cli("import", archive, check=False).stderr
            lines = run.until_lines("/count", len(before) + 5)
            assert lines == [str(number) for number in range(1, len(lines) + 1)]
            run.stop()
            assert in_store(other, "traveller") == set(history(other, "traveller")), (
                "nothing of the refused one is left"
            )


def test_the_log_is_proved_exported_and_rebuilt_while_the_stack_runs(keeping: Stack) -> None:
    taken(keeping, "audited", 1)
    proof = keeping.json("log", "verify")
    assert (proof["sound"], proof["problems"]) == (True, [])
    events = keeping.json("get", "events")
    lines = keeping.cli("log", "export", "--from", "2", "--to", "5").stdout.splitlines()
    assert [json.loads(line) for line in lines] == events[1:5]
    before = keeping.json("get", "snapshots")
    keeping.cli("log", "rebuild")
    assert keeping.json("get", "snapshots") == before
    assert keeping.json("log", "verify")["sound"]


def test_history_and_choice_at_a_time_need_no_stack(keeping: Stack) -> None:
    (name,) = taken(keeping, "past", 1)
    whole = keeping.history("past")
    stored_at = next(event["recorded_at"] for event in whole if event["type"] == "snapshot.stored")
    url = f"sqlite+aiosqlite:///{keeping.ready['database']}"
    nowhere = ("--database-url", url)
    then = keeping.json("history", "past", "--at", stored_at, *nowhere)
    assert then == [event for event in whole if event["recorded_at"] <= stored_at]
    assert then[-1]["type"] in {"snapshot.stored", "command.finished"}
    begun = next(event["recorded_at"] for event in whole if event["type"] == "container.started")
    opened = whole[0]["recorded_at"]
    assert keeping.json("choose", "past", "--node", "localhost", "--at", opened, *nowhere)["answer"] == "cold"
    then = keeping.json("choose", "past", "--node", "localhost", "--at", begun, *nowhere)
    assert then["answer"] == "wait"  # it ran, and a second start would have had it dumped first
    assert f"incarnation {whole[0]['data']['incarnation']}" in then["waiting_for"]
    ended = next(event["recorded_at"] for event in whole if event["type"] == "container.ended")
    assert keeping.json("choose", "past", "--node", "localhost", "--at", ended, *nowhere)["snapshot_id"] == name
    unknown = keeping.cli("choose", "past", "--node", "elsewhere", *nowhere, check=False)
    assert "unknown-node" in unknown.stderr
    assert keeping.cli("history", "past", "--at", "yesterday", check=False).returncode == 2
