"""Whether files that stayed outside are what a snapshot's processes take them for."""

from __future__ import annotations

import pytest
from support.criu_images import PLAIN, SPECIMENS, load

from nodeworker.domain import mounts, volume_changes
from nodeworker.domain.criu_images.held_files import FILES, held_files, without_sizes, writers_first
from nodeworker.domain.volume_changes import Now, changes, failure, grown, ignored
from woodfrog.protocol.failures import PASSING_CODES, TOLD_CODES
from woodfrog.protocol.manifest import HeldFile

pytestmark = pytest.mark.timeout(20)

FILE = HeldFile("/v", "data/base", 10, 1_000)
LOG = HeldFile("/v", "log", 10, 1_000, appended=True)


@pytest.mark.parametrize(
    ("file", "size", "mtime_ns", "changed"),
    [
        (FILE, 10, 1_000, False),
        (FILE, 10, 1_001, True),
        (FILE, 11, 1_000, True),
        (FILE, 9, 2_000, True),
        (LOG, 10, 2_000, False),
        (LOG, 11, 2_000, False),
        (LOG, 9, 2_000, True),
    ],
)
def test_a_file_has_changed_if_its_size_or_its_time_did_and_a_log_if_it_is_shorter(
    file: HeldFile, size: int, mtime_ns: int, changed: bool
) -> None:
    assert bool(changes([file], {file: Now(size, mtime_ns)})) is changed


def test_what_is_not_there_is_left_to_criu_which_names_it() -> None:
    assert changes([FILE], {}) == []


def test_the_failure_names_the_file_and_what_changed_and_says_nothing_against_the_snapshot() -> None:
    told = failure(changes([FILE], {FILE: Now(12, 2_000)}))
    assert "/v/data/base (10 bytes at the dump, 12 now)" in told.cause
    assert told.code == "volume-changed"
    assert told.code in PASSING_CODES & TOLD_CODES


def test_a_name_with_escape_sequences_is_not_shown_as_it_is() -> None:
    odd = HeldFile("/v", "\x1b[2J", 1, 1)
    assert "\x1b" not in failure(changes([odd], {odd: Now(2, 1)})).cause


def test_many_files_are_counted_and_not_listed() -> None:
    many = [HeldFile("/v", str(number), 1, 1) for number in range(10)]
    found = changes(many, {each: Now(2, 1) for each in many})
    assert failure(found).cause.endswith(" and 7 more")
    assert ignored(found)[0].endswith(" and 7 more")


def test_how_much_a_log_has_grown_is_told() -> None:
    assert grown([FILE, LOG], {FILE: Now(20, 1), LOG: Now(15, 9)}) == (
        "files that the process only appends to have grown since the snapshot: /v/log by 5 bytes",
    )
    assert grown([LOG], {LOG: Now(10, 9)}) == ()


def test_more_files_than_are_recorded_are_a_warning_of_the_snapshot() -> None:
    assert volume_changes.too_many(volume_changes.MOST_FILES) == ()
    assert "5001 files" in volume_changes.too_many(volume_changes.MOST_FILES + 1)[0]


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_files_are_found_by_their_mount_in_a_real_dump(specimen: str) -> None:
    assert held_files(load(specimen), {"/nowhere"}) == []
    found = held_files(load(specimen), {"/vol"})
    assert {held.mount for held in found} <= {"/vol"}


def test_the_files_on_a_volume_are_found_with_what_criu_compares_of_them() -> None:
    found = writers_first(held_files(load(PLAIN), {"/vol"}))
    assert found
    assert all(held.path and not held.path.startswith("/") for held in found)
    assert [held.writes for held in found] == sorted((held.writes for held in found), reverse=True)


def test_sizes_are_taken_out_of_the_named_files_alone() -> None:
    images = load(PLAIN)
    sized = [held for held in held_files(images, {"/vol"}) if held.size_bytes is not None]
    names = {(sized[0].mount, sized[0].path)}
    images.update(without_sizes(images, names))
    now = {(held.mount, held.path): held.size_bytes for held in held_files(images, {"/vol"})}
    assert now[sized[0].mount, sized[0].path] is None
    assert all(now[held.mount, held.path] == held.size_bytes for held in sized[1:])
    assert without_sizes(images, names) == {}
    assert without_sizes(images, {("/vol", "of-nobody")}) == {}
    assert FILES in images


@pytest.mark.parametrize(
    ("place", "source", "given"),
    [
        ("/etc/hosts", "/var/lib/docker/containers/x/hosts", True),
        ("/dev/termination-log", "/var/lib/kubelet/pods/uid/containers/main/1a2b", True),
        ("/etc/app.conf", "/var/lib/kubelet/pods/uid/volume-subpaths/settings/main/0", True),
        ("/data", "/srv/data", False),
        ("/data/file", "/var/lib/kubelet/pods/another/containers/main/1a2b", False),
    ],
)
def test_files_that_each_new_pod_gets_are_known(place: str, source: str, given: bool) -> None:
    assert mounts.is_given(place, source, "uid") is given
