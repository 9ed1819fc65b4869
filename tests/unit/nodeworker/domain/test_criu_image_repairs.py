"""What is mended in CRIU's images before a restore, and that nothing else is touched."""

from __future__ import annotations

import pytest
from support.criu_images import PLAIN, SPECIMENS, edit, load, messages, put

from nodeworker.domain.criu_images import MalformedImageError, repaired
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field

pytestmark = pytest.mark.timeout(20)

MOUNTS = "mountpoints-13.img"
TIME, DELETED, KEY, TIMER = 12, 16, 18, 12


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_a_dump_that_needs_nothing_is_left_as_it_is(specimen: str) -> None:
    assert repaired(load(specimen)) == {}


def test_what_a_session_left_behind_gets_the_time_namespace_of_its_new_parent() -> None:
    images = load(PLAIN)
    before = Message(messages(images, "ids-1.img")[0], "ids")
    left = before.rewritten({TIME: number_field(TIME, 99)})
    images["ids-44.img"] = images["ids-1.img"]
    put(images, "ids-44.img", [left])
    changed = repaired(images)
    assert set(changed) == {"ids-44.img"}
    assert changed["ids-44.img"] == images["ids-1.img"]


UNIX, ID, INO, PEER = 16, 2, 2, 8


def unix_socket(number: int, peer: int) -> bytes:
    """A Unix socket of ``files.img``, as far as its place depends on it."""
    entry = number_field(INO, number) + number_field(PEER, peer)
    return number_field(ID, number) + data_field(UNIX, entry)


def order(sockets: list[tuple[int, int]]) -> list[int]:
    """In which order these sockets, each with its peer, stand in the images once they are mended."""
    images = load(PLAIN)
    others = messages(images, "files.img")
    put(images, "files.img", [*others[:1], *(unix_socket(*each) for each in sockets), *others[1:]])
    mended = [Message(raw, "file") for raw in messages(images | repaired(images), "files.img")]
    numbers = {number for number, _ in sockets}
    assert [message.raw for message in mended if message.uint32(ID) not in numbers] == others
    return [message.uint32(ID) for message in mended if message.uint32(ID) in numbers]


@pytest.mark.parametrize(
    ("sockets", "mended"),
    [
        ([(101, 102), (102, 0)], [102, 101]),
        ([(101, 102), (103, 102), (102, 0)], [102, 101, 103]),
        ([(101, 102), (102, 103), (103, 0)], [103, 102, 101]),
        ([(101, 102), (102, 103), (103, 102)], [102, 101, 103]),
        ([(102, 0), (101, 102)], [102, 101]),
        ([(101, 102), (102, 101)], [101, 102]),
        ([(101, 101), (102, 999)], [101, 102]),
        ([(101, 102), (102, 103), (103, 101)], [103, 102, 101]),
    ],
    ids=[
        "waiting",
        "two clients",
        "a chain",
        "to one of a pair",
        "in order",
        "a pair",
        "to itself and to nobody",
        "a ring",
    ],
)
def test_a_unix_socket_comes_behind_the_one_that_it_is_connected_to(
    sockets: list[tuple[int, int]], mended: list[int]
) -> None:
    assert order(sockets) == mended


def test_a_process_without_a_time_namespace_is_left_alone() -> None:
    images = load(PLAIN)
    images["ids-44.img"] = images["ids-1.img"]
    edit(images, "ids-44.img", (), f12=None)
    assert repaired(images) == {}


def test_an_external_mount_that_was_replaced_is_mounted_like_the_others() -> None:
    images = load(PLAIN)
    whole = messages(images, MOUNTS)
    external = next(index for index, raw in enumerate(whole) if Message(raw, "mount").optional_data(KEY) is not None)
    put(
        images,
        MOUNTS,
        [
            raw if n != external else Message(raw, "mount").rewritten({DELETED: number_field(DELETED, 1)})
            for n, raw in enumerate(whole)
        ],
    )
    changed = repaired(images)
    images.update(changed)
    assert set(changed) == {MOUNTS}
    assert messages(images, MOUNTS) == whole


def test_a_mount_of_the_containers_own_that_was_replaced_is_left_to_criu() -> None:
    images = load(PLAIN)
    edit(images, MOUNTS, (), f16=1, f18=None)
    assert repaired(images) == {}


@pytest.mark.parametrize(
    ("ticks", "value", "interval", "mended"),
    [
        (1, (0, 0), (0, 1_000_000), True),
        (7, (0, 0), (1, 0), True),
        (0, (0, 0), (1, 0), False),
        (1, (0, 5), (1, 0), False),
        (1, (3, 0), (1, 0), False),
        (1, (0, 0), (0, 0), False),
    ],
    ids=["1 ms, expired", "1 s, expired", "disarmed by its owner", "armed in ns", "armed in s", "a single shot that is over"],
)  # fmt: skip
def test_a_periodic_timer_that_had_expired_goes_on(
    ticks: int, value: tuple[int, int], interval: tuple[int, int], *, mended: bool
) -> None:
    images = load(PLAIN)
    fields = {1: 5, 2: 0, 4: 1, 5: ticks, 6: 0, 7: value[0], 8: value[1], 9: interval[0], 10: interval[1]}
    timer = b"".join(number_field(number, each) for number, each in fields.items())
    file = number_field(1, 17) + number_field(2, 77) + data_field(TIMER, timer)
    others = messages(images, "files.img")
    put(images, "files.img", [*others, file])
    changed = repaired(images)
    assert bool(changed) is mended
    images.update(changed)
    *same, last = messages(images, "files.img")
    assert same == others
    now = Message(last, "file").message(TIMER, "timer")
    assert (now.uint64(7), now.uint64(8)) == ((0, 1) if mended else value)
    assert (now.uint64(5), now.uint64(9), now.uint64(10)) == (ticks, *interval)


def test_an_image_that_is_cut_off_is_refused() -> None:
    images = load(PLAIN)
    images["files.img"] = images["files.img"][:-3]
    with pytest.raises(MalformedImageError):
        repaired(images)
