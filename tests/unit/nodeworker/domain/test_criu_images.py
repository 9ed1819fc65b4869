"""CRIU's images as the worker reads them: those of real dumps, and those that no CRIU has written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.criu_images import CONFINED, PLAIN, SPECIMENS, edit, load, messages, put

from nodeworker.domain.criu_images import MalformedImageError, read_privileges
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from woodfrog.protocol.privileges import NO_FILTER, SOME_FILTER

pytestmark = pytest.mark.timeout(20)

CREDS = (5, 10)
MANY = ("CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN")
MOUNTS = "mountpoints-13.img"
Images = dict[str, bytes]


@pytest.mark.parametrize("version", ["4.1.1", "4.2.1"])
def test_what_an_unconfined_process_held_is_read_from_the_images_of_its_dump(version: str) -> None:
    held = read_privileges(load(f"plain-{version}"))
    assert (held.uids, held.gids, held.groups) == ((0,), (0,), ())
    assert held.bounding == held.permitted == held.effective == MANY
    assert (held.inheritable, held.ambient) == ((), ())
    assert held.no_new_privs is False
    assert (held.seccomp, held.lsm, held.user) == (NO_FILTER, (), None)
    assert held.read_only == ("/proc/bus", "/proc/sys", "/proc/sysvipc", "/rovol", "/sys")
    assert held.masked == ("/proc/keys", "/proc/sysvipc")
    assert held.host_namespaces == ("cgroup", "time", "user")
    limits = dict(held.rlimits or ())
    assert (limits["RLIMIT_NOFILE"], limits["RLIMIT_CPU"]) == (4096, 2**64 - 1)
    assert held.oom_score_adj == 100


@pytest.mark.parametrize("version", ["4.1.1", "4.2.1"])
def test_what_a_confined_process_held_is_read_from_the_images_of_its_dump(version: str) -> None:
    held = read_privileges(load(f"confined-{version}"))
    assert held.groups == (5, 70000)
    sets = {held.bounding, held.permitted, held.effective, held.inheritable, held.ambient}
    assert sets == {("CAP_NET_RAW",)}
    assert held.no_new_privs is True
    assert held.seccomp == SOME_FILTER
    assert held.read_only is not None
    assert "/" in held.read_only


def test_one_thread_that_holds_more_than_the_others_counts() -> None:
    images = load(CONFINED)
    edit(images, "core-7.img", CREDS, f10=1 << 21, f18=0, f1=7, f8=8, f15="docker-default")
    held = read_privileges(images)
    assert held.permitted == ("CAP_NET_RAW", "CAP_SYS_ADMIN")
    assert held.no_new_privs is False
    assert held.uids == (0, 7)
    assert held.gids == (0, 8)
    assert held.lsm == ("docker-default", "unconfined")


def test_a_capability_without_a_name_is_called_by_its_number() -> None:
    images = load(CONFINED)
    set_words(images, "core-1.img", 12, 0, 1 << 31)
    assert read_privileges(images).bounding == ("CAP_63", "CAP_NET_RAW")


def test_the_lowest_oom_score_adj_counts_and_may_be_negative() -> None:
    images = load(PLAIN)
    edit(images, "core-1.img", (3,), f14=-998)
    assert read_privileges(images).oom_score_adj == -998


@pytest.mark.parametrize("number", [2, 5, 6, 7, 8, 9])
def test_a_namespace_that_criu_would_share_with_the_node_is_one_of_the_node(number: int) -> None:
    kinds = {2: "ipc", 5: "pid", 6: "network", 7: "ipc", 8: "uts", 9: "mount"}
    images = load(PLAIN)
    inventory = Message(messages(images, "inventory.img")[0], "inventory").message(3, "ids")
    edit(images, "ids-1.img", (), **{f"f{number}": inventory.uint32(number)})
    shared = read_privileges(images).host_namespaces
    assert shared is not None
    assert (kinds[number] in shared) == (number != 2)


def test_a_namespace_that_neither_side_names_is_one_of_the_node() -> None:
    images = load(PLAIN)
    edit(images, "ids-1.img", (), f5=None)
    edit(images, "inventory.img", (3,), f5=None)
    assert "pid" in (read_privileges(images).host_namespaces or ())


def test_a_place_is_read_only_only_if_all_that_is_mounted_there_is() -> None:
    images = load(PLAIN)
    rovol = next(raw for raw in messages(images, MOUNTS) if b"\x3a\x06/rovol" in raw)
    again = Message(rovol, "mount").rewritten({2: number_field(2, 999), 5: number_field(5, 0)})
    put(images, MOUNTS, [again, *messages(images, MOUNTS)])
    assert "/rovol" not in (read_privileges(images).read_only or ())


def test_a_mask_with_a_mount_on_it_or_below_it_masks_nothing() -> None:
    for place in ("/proc/sysvipc", "/proc/sysvipc/shm"):
        images = load(PLAIN)
        proc = next(raw for raw in messages(images, MOUNTS) if b"\x3a\x05/proc\x42" in raw)
        changes = {2: number_field(2, 999), 6: data_field(6, b"/sysvipc"), 7: data_field(7, place.encode())}
        put(images, MOUNTS, [Message(proc, "mount").rewritten(changes), *messages(images, MOUNTS)])
        assert read_privileges(images).masked == ("/proc/keys",)


def test_threads_have_a_filter_if_the_kernel_gives_them_the_one_of_the_first() -> None:
    images = load(CONFINED)
    edit(images, "seccomp.img", (1,), f3=0)
    assert read_privileges(images).seccomp == NO_FILTER
    for thread in ("core-6.img", "core-7.img"):
        edit(images, thread, (5,), f11=2, f12=0)
    assert read_privileges(images).seccomp == SOME_FILTER


def test_a_dead_process_needs_no_credentials() -> None:
    images = load(PLAIN)
    assert Message(messages(images, "core-8.img")[0], "core").message(3, "tc").uint32(1) == 2
    del images["core-8.img"]
    with pytest.raises(MalformedImageError, match=r"core-8\.img"):
        read_privileges(images)


def test_a_process_that_is_said_to_be_dead_and_is_the_first_is_refused() -> None:
    images = load(PLAIN)
    edit(images, "core-1.img", (3,), f1=2)
    with pytest.raises(MalformedImageError, match="not alive"):
        read_privileges(images)


def set_words(images: Images, name: str, kind: int, *words: int) -> None:
    encoded = b"".join(number_field(kind, word) for word in words)

    def change(raw: bytes) -> bytes:
        core = Message(raw, "core")
        thread = core.message(5, "thread")
        creds = thread.message(10, "creds").rewritten({kind: encoded})
        return core.rewritten({5: data_field(5, thread.rewritten({10: data_field(10, creds)}))})

    put(images, name, [change(raw) for raw in messages(images, name)])


def twice(name: str, field: int) -> Callable[[Images], None]:
    def change(images: Images) -> None:
        put(images, name, [raw + number_field(field, 1) for raw in messages(images, name)])

    return change


def without(*path: int, name: str = "core-1.img") -> Callable[[Images], None]:
    def change(images: Images) -> None:
        edit(images, name, path[:-1], **{f"f{path[-1]}": None})

    return change


def setting(name: str, *path: int, to: int | str | bytes) -> Callable[[Images], None]:
    def change(images: Images) -> None:
        edit(images, name, path[:-1], **{f"f{path[-1]}": to})

    return change


def repeated(name: str) -> Callable[[Images], None]:
    def change(images: Images) -> None:
        put(images, name, messages(images, name) * 2)

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda images: images.pop("ids-1.img"), id="a process without namespaces"),
        pytest.param(lambda images: images.pop("core-7.img"), id="a thread without an image"),
        pytest.param(lambda images: images.pop("inventory.img"), id="no inventory"),
        pytest.param(lambda images: images.pop("pstree.img"), id="no tree"),
        pytest.param(lambda images: images.pop("seccomp.img"), id="no filters though a thread has one"),
        pytest.param(lambda images: images.pop(MOUNTS), id="no mounts"),
        pytest.param(lambda images: put(images, MOUNTS, []), id="no root"),
        pytest.param(lambda images: put(images, "pstree.img", []), id="no process"),
        pytest.param(repeated("core-1.img"), id="a second message that CRIU would not look at"),
        pytest.param(repeated("pstree.img"), id="every process twice"),
        pytest.param(repeated(MOUNTS), id="every mount twice"),
        pytest.param(twice("ids-1.img", 9), id="a number twice"),
        pytest.param(without(5), id="no thread: it would keep all of root's credentials"),
        pytest.param(without(5, 10), id="no credentials: those would be read from elsewhere"),
        pytest.param(without(5, 10, name="core-7.img"), id="no credentials of a later thread"),
        pytest.param(without(5, 10, 13), id="no secure bits"),
        pytest.param(without(3), id="no state"),
        pytest.param(without(3, 8), id="no limits: it would keep CRIU's"),
        pytest.param(without(3, 8, 1), id="not all limits"),
        pytest.param(without(3, 14), id="no oom_score_adj: it would keep CRIU's"),
        pytest.param(setting("core-1.img", 3, 1, to=4), id="an unknown state"),
        pytest.param(setting("core-1.img", 3, 11, to=2), id="seccomp of an old CRIU"),
        pytest.param(setting("core-1.img", 5, 11, to=3), id="an unknown seccomp mode"),
        pytest.param(setting("core-1.img", 5, 12, to=1), id="a filter that is not there"),
        pytest.param(setting("core-1.img", 5, 10, 1, to=1 << 32), id="a user id of 33 bits"),
        pytest.param(setting("core-1.img", 5, 10, 1, to=b"\1\1\1\1"), id="a user id that is bytes"),
        pytest.param(setting("core-1.img", 5, 10, 10, to=b"\1\2"), id="packed capabilities"),
        pytest.param(setting("core-1.img", 5, 10, 15, to=b"a\0b"), id="a profile with a NUL"),
        pytest.param(setting("core-1.img", 3, 14, to=1 << 40), id="an oom_score_adj of 40 bits"),
        pytest.param(setting("seccomp.img", 1, 2, to=0), id="a filter before itself"),
        pytest.param(setting("inventory.img", 1, to=1), id="images without the common magic"),
        pytest.param(setting("pstree.img", 2, to=1), id="no first process"),
        pytest.param(setting("pstree.img", 1, to=1 << 31), id="an impossible process id"),
        pytest.param(setting("pstree.img", 5, to=7), id="a process that is not its own first thread"),
        pytest.param(setting(MOUNTS, 7, to="/a/../b"), id="a mount at a path that leads elsewhere"),
        pytest.param(setting(MOUNTS, 7, to="a"), id="a mount at a relative path"),
        pytest.param(without(17, name=MOUNTS), id="flags of an old CRIU"),
    ],
)
def test_images_that_criu_could_take_otherwise_are_refused(change: Callable[[Images], object]) -> None:
    images = load(CONFINED)
    change(images)
    with pytest.raises(MalformedImageError):
        read_privileges(images)


def test_a_set_of_capabilities_with_a_word_too_many_is_refused() -> None:
    images = load(CONFINED)
    set_words(images, "core-1.img", 10, 1, 1, 1)
    with pytest.raises(MalformedImageError, match="3 words"):
        read_privileges(images)


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_an_image_that_is_cut_off_anywhere_is_refused_and_nothing_else_happens(specimen: str) -> None:
    whole = load(specimen)
    held = read_privileges(whole)
    for name in ("pstree.img", "inventory.img", "ids-1.img", "core-6.img", MOUNTS):
        for length in range(0, len(whole[name]), 7):
            try:
                read = read_privileges({**whole, name: whole[name][:length]})
            except MalformedImageError:
                continue
            assert name == MOUNTS or read == held


@pytest.mark.parametrize(
    "raw",
    [
        b"\x08",
        b"\x08" + b"\xff" * 10,
        b"\x08" + b"\x80" * 10 + b"\x00",
        b"\x00\x01",
        b"\x0b",
        b"\x0c",
        b"\x0f\x01",
        b"\x0a\x05abcd",
        b"\x09" + b"1234567",
        b"\x0d123",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedImageError):
        Message(raw, "it")


def test_a_message_is_written_anew_with_every_other_byte_as_it_was() -> None:
    raw = b"\x98\x06\x81\x00" + number_field(9, 1) + data_field(3, b"x") + number_field(9, 2) + b"\x0d1234"
    message = Message(raw, "it")
    assert message.rewritten({}) == raw
    new = number_field(9, 5)
    assert message.rewritten({9: new, 20: b"\xa0\x01\x07"}) == (
        b"\x98\x06\x81\x00" + new + data_field(3, b"x") + b"\x0d1234" + b"\xa0\x01\x07"
    )
