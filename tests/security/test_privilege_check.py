"""The worker's own look at CRIU's images before a restore: forged ones bring no privileges, honest ones are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.criu_images import CONFINED, PLAIN, edit, load, messages, put

from nodeworker.bundle import Bundle
from nodeworker.capture.afterwards import Afterwards
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.criu_images import mounted_places, read_privileges
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from nodeworker.domain.criu_options import CriuVersion
from nodeworker.restore import privilege_check
from nodeworker.restore.privilege_check import Checked
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import PRIVILEGES_EXCEED, FailureError
from woodfrog.protocol.privileges import Privileges

pytestmark = pytest.mark.timeout(30)

CREDS = (5, 10)
MOUNTS = "mountpoints-13.img"
CRIU = (4, 2, 1)
Images = dict[str, bytes]


class Restore:
    """A container that is about to be made of these images, with the spec that they were taken under unless told otherwise."""

    def __init__(self, folder: Path, specimen: str = CONFINED) -> None:
        self.images = load(specimen)
        self.folder = folder / "images"
        self.rootfs = folder / "rootfs"
        self.rootfs.mkdir()
        held = read_privileges(self.images)
        self.spec = msgspec.structs.replace(held, user=0, host_namespaces=("cgroup", "time", "user"))
        self.mounts = mounted_places(self.images)

    def check(self, recorded: Privileges | None = None, criu: CriuVersion = CRIU, **live: Any) -> Checked:
        self.folder.mkdir(exist_ok=True)
        for name, data in self.images.items():
            (self.folder / name).write_bytes(data)
        facts = ContainerFacts(mounts=self.mounts, privileges=self.spec)
        bundle = Bundle(rootfs=self.rootfs, namespace=None, facts=facts, shm_source=None, **live)
        return privilege_check.check(self.folder, bundle, self.spec, recorded, criu)

    def refused(self, recorded: Privileges | None = None, **live: Any) -> str:
        with pytest.raises(FailureError) as problem:
            self.check(recorded, **live)
        assert problem.value.failure.code == PRIVILEGES_EXCEED
        assert {path.name: path.read_bytes() for path in self.folder.iterdir()} == self.images
        return problem.value.failure.cause

    def narrow(self, **fields: object) -> None:
        self.spec = msgspec.structs.replace(self.spec, **fields)


@pytest.mark.parametrize("specimen", [PLAIN, CONFINED])
def test_under_the_same_spec_nothing_is_taken_and_no_image_changed(tmp_path: Path, specimen: str) -> None:
    restore = Restore(tmp_path, specimen)
    assert restore.check() == Checked()
    assert {path.name: path.read_bytes() for path in restore.folder.iterdir()} == restore.images


def with_users(images: Images) -> None:
    edit(images, "core-7.img", CREDS, f1=7)


def with_groups(images: Images) -> None:
    edit(images, "core-7.img", CREDS, f2=9)


def without_filters(images: Images) -> None:
    for name in ("core-1.img", "core-6.img", "core-7.img"):
        edit(images, name, (5,), f11=0, f12=None)


def mounted(images: Images, place: str, **fields: int) -> None:
    """Add a mount that CRIU makes by itself."""
    model = Message(messages(images, MOUNTS)[-1], "a mount")
    changes = {2: number_field(2, 4711), 7: data_field(7, place.encode()), 18: b"", 13: b""}
    changes |= {int(name[1:]): number_field(int(name[1:]), value) for name, value in fields.items()}
    changes[6] = data_field(6, b"/")
    put(images, MOUNTS, [*messages(images, MOUNTS), model.rewritten(changes)])


def second_proc(images: Images) -> None:
    mounted(images, "/tmp/proc", f1=1, f3=99)


def disk(images: Images) -> None:
    mounted(images, "/tmp/disk", f1=16, f3=2049)


def unmasked(images: Images) -> None:
    kept = [one for one in messages(images, MOUNTS) if Message(one, "a mount").text(7) != "/proc/keys"]
    put(images, MOUNTS, kept)


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (with_users, "users 7"),
        (with_groups, "groups 9"),
        (without_filters, "seccomp filter"),
        (second_proc, "/tmp/proc"),
        (disk, "/tmp/disk"),
        (unmasked, "/proc/keys"),
    ],
)
def test_what_cannot_be_taken_out_of_forged_images_is_refused_whatever_is_recorded(
    tmp_path: Path, forge: Callable[[Images], None], named: str
) -> None:
    restore = Restore(tmp_path)
    restore.narrow(seccomp="digest", masked=("/proc/keys",))
    honest = restore.spec
    forge(restore.images)
    assert named in restore.refused()
    assert named in restore.refused(honest)


def test_what_a_forged_thread_holds_is_taken_from_it(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    edit(restore.images, "core-7.img", CREDS, f10=1 << 21, f11=1 << 21, f12=0xFFFFFFFF, f18=0)
    said = restore.check().lowered
    for named in ("CAP_SYS_ADMIN (permitted)", "no_new_privs"):
        assert any(named in each for each in said), said
    assert read_privileges(ImageFiles(restore.folder)) == read_privileges(load(CONFINED))
    assert restore.check(restore.spec).lowered  # its own images again, forged again: nothing of before is believed


def test_a_read_only_volume_below_a_link_is_read_only(tmp_path: Path) -> None:
    restore = Restore(tmp_path, PLAIN)
    (restore.rootfs / "link").symlink_to("/vol")
    restore.mounts = tuple("/link" if each == "/vol" else each for each in restore.mounts)
    restore.narrow(read_only=(*(restore.spec.read_only or ()), "/link"))
    assert "/vol" in restore.refused()  # a process of this dump holds a file there open


def test_a_masked_path_that_the_image_does_not_have_is_not_asked_for(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    restore.narrow(
        masked=(*(restore.spec.masked or ()), "/var/lib/secret", "/proc/not-in-this-kernel", "/sys/devices/cpu")
    )
    assert restore.check() == Checked()
    (restore.rootfs / "var/lib/secret").mkdir(parents=True)
    assert "/var/lib/secret" in restore.refused()


def test_what_its_own_container_was_to_mount_read_only_is_no_news(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    mounted(restore.images, "/cache", f1=5, f3=4711, f5=0, f17=0)
    restore.mounts = (*restore.mounts, "/cache")
    restore.narrow(read_only=tuple(sorted({*(restore.spec.read_only or ()), "/cache"})))
    said = (
        "lowered to what the new container allows: it may write to /cache, which the new container mounts read-only",
    )
    assert restore.check().lowered == said
    assert restore.check(msgspec.structs.replace(restore.spec, read_only=())).lowered == said
    assert restore.check(restore.spec).lowered == ()
    assert "/cache" in (read_privileges(ImageFiles(restore.folder)).read_only or ())


def test_a_root_that_an_older_criu_leaves_writable_is_made_read_only_afterwards(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    assert "/" in (restore.spec.read_only or ())
    assert restore.check().afterwards is None
    checked = restore.check(criu=(4, 1, 1))
    assert checked == Checked(afterwards=Afterwards(read_only_root=True))
    restore.narrow(read_only=tuple(each for each in restore.spec.read_only or () if each != "/"))
    assert restore.check(criu=(4, 1, 1)).afterwards is None


def test_hardware_that_the_snapshots_node_lacked_is_masked_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acpi").mkdir()
    monkeypatch.setattr(privilege_check, "_ABOUT_HARDWARE", (f"{tmp_path}/acpi", f"{tmp_path}/none"))
    restore = Restore(tmp_path)
    restore.narrow(masked=(*(restore.spec.masked or ()), f"{tmp_path}/acpi", f"{tmp_path}/none"))
    assert restore.check(restore.spec) == Checked(afterwards=Afterwards(mask=(f"{tmp_path}/acpi",)))
    held = Message(messages(restore.images, "files.img")[0], "a file")
    assert held.uint32(1) == 1
    file = held.message(3, "a file")
    moved = file.rewritten({6: data_field(6, f"{tmp_path}/acpi/event".encode())})
    put(
        restore.images,
        "files.img",
        [held.rewritten({3: data_field(3, moved)}), *messages(restore.images, "files.img")[1:]],
    )
    assert f"{tmp_path}/acpi/event open" in restore.refused(restore.spec)


def test_files_give_nothing_to_a_user_who_is_not_known_to_have_been_the_snapshots_own(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    assert restore.check().gains_for is None, "root"
    restore.narrow(user=7, uids=(0, 7), gids=(0,), groups=(5, 70000), ambient=restore.spec.permitted)
    assert restore.check(restore.spec).gains_for is None, "started as the same user"
    assert restore.check().gains_for == (7, (0, 5, 70000))
    assert restore.check(msgspec.structs.replace(restore.spec, user=0)).gains_for == (7, (0, 5, 70000))


def test_a_profile_of_the_new_container_confines(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    restore.narrow(lsm=("web",))
    assert restore.check(lsm_profile="apparmor:web").lsm_profile == "apparmor:web"
    for name in ("core-1.img", "core-6.img", "core-7.img"):
        edit(restore.images, name, CREDS, f15="web//child")
    assert restore.check(lsm_profile="apparmor:web").lsm_profile == ""


def test_images_that_cannot_be_read_are_refused_for_that(tmp_path: Path) -> None:
    restore = Restore(tmp_path)
    restore.images["core-7.img"] = restore.images["core-7.img"][:-1]
    with pytest.raises(FailureError) as problem:
        restore.check()
    assert problem.value.failure.code == "images-unreadable"
