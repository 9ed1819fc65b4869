"""What is to be read-only stays so at every place where a snapshot has it mounted."""

from __future__ import annotations

import pytest
from support.criu_images import CONFINED, PLAIN, load

from nodeworker.domain.criu_images.aliases import writable_aliases
from nodeworker.domain.criu_images.mounts import Mount, read_mounts
from nodeworker.domain.criu_images.privileges import mount_namespaces
from nodeworker.domain.criu_images.tasks import read_tree

pytestmark = pytest.mark.timeout(10)

NAMED = ("/", "/proc", "/dev", "/dev/shm", "/sys", "/vol", "/rovol", "/proc/sys")
DISK, OVERLAY, TMPFS = 0, 17, 5


def mount(
    place: str, root: str = "/", *, key: str | None = None, device: int = 7, flags: int = 0, kind: int = DISK
) -> Mount:
    return Mount(hash(place) & 0xFFFF, 1, place, kind, device, root, flags, 0, key)


ROOT = mount("/", kind=OVERLAY, device=1)
VOLUME = mount("/rovol", "/pods/u1/vol", key="/rovol", flags=1)
SCRATCH = mount("/scratch", "/pods/u1/scratch", key="/scratch")


@pytest.mark.parametrize("specimen", [PLAIN, CONFINED])
def test_a_dump_has_no_aliases_of_what_its_spec_names(specimen: str) -> None:
    images = load(specimen)
    mounts = read_mounts(images, mount_namespaces(read_tree(images)))
    for read_only in ((), ("/rovol", "/proc/sys"), ("/", "/rovol", "/sys"), ("/vol",)):
        assert writable_aliases(mounts, NAMED, read_only) == ()


@pytest.mark.parametrize(
    "alias",
    [
        pytest.param(mount("/tmp/a", "/pods/u1/vol"), id="all of the volume"),
        pytest.param(mount("/tmp/a", "/pods/u1/vol/deep"), id="a part of it"),
        pytest.param(mount("/tmp/a", "/pods"), id="what it is a part of"),
        pytest.param(mount("/tmp/a", "/"), id="the whole disk"),
        pytest.param(mount("/tmp/a", "/x", key="/rovol"), id="its key at another place"),
        pytest.param(mount("/scratch", "/x", key="/rovol"), id="its key at the place of another volume"),
        pytest.param(mount("/scratch", "/pods/u1/vol"), id="it in the place of another volume"),
    ],
)
def test_a_writable_alias_of_a_read_only_volume_is_found(alias: Mount) -> None:
    mounts = [ROOT, VOLUME, alias]
    named = ("/", "/rovol", "/scratch")
    assert writable_aliases(mounts, named, ("/rovol",)) == (alias.place,)
    lowered = [ROOT, mount("/rovol", "/pods/u1/vol", key="/rovol"), alias]
    assert writable_aliases(lowered, named, ("/rovol",)) == (alias.place,)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(mount("/tmp/a", "/pods/u1/vol", flags=1), id="a read-only one"),
        pytest.param(mount("/tmp/a", "/pods/u1/volume"), id="a folder with a longer name"),
        pytest.param(mount("/tmp/a", "/pods/u1/vol", device=8), id="another device"),
        pytest.param(SCRATCH, id="a volume of the spec"),
        pytest.param(mount("/scratch", "/pods/u1/vol", key="/scratch"), id="the same volume, by the spec itself"),
        pytest.param(mount("/proc/keys", "/null", key="/dev/null", device=3, kind=TMPFS), id="a mask"),
    ],
)
def test_what_shows_nothing_of_it_or_is_wanted_is_no_alias(other: Mount) -> None:
    assert writable_aliases([ROOT, VOLUME, other], ("/", "/rovol", "/scratch"), ("/rovol",)) == ()


def test_a_writable_alias_of_a_read_only_root_is_found() -> None:
    alias = mount("/tmp/a", "/etc", kind=OVERLAY, device=1)
    assert writable_aliases([ROOT, alias], ("/",), ("/",)) == ("/tmp/a",)
    assert writable_aliases([ROOT, alias], ("/",), ()) == ()
