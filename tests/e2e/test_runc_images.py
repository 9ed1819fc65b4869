"""What is read from CRIU's images is what a restore brings back, and what is taken out of them it does not bring back.

Real containers, dumped and restored by runc, and looked at from outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.criu_images import messages, put
from support.lone_runtime import Container, LoneRuntime, eventually

from nodeworker.capture.criu import image_files
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.domain.capabilities import names_of
from nodeworker.domain.criu_images import CannotLowerError, left_writable, lower, read_privileges
from nodeworker.domain.criu_images.aliases import writable_aliases
from nodeworker.domain.criu_images.mounts import FLAGS, READ_ONLY, read_mounts
from nodeworker.domain.criu_images.privileges import mount_namespaces
from nodeworker.domain.criu_images.protobuf import Message, number_field
from nodeworker.domain.criu_images.tasks import read_tree
from nodeworker.domain.criu_options import parse_version
from woodfrog.protocol.privileges import Privileges

pytestmark = [pytest.mark.criu, pytest.mark.timeout(120)]

MANY = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN"]
THREADS = """
import threading, time
for _ in range(2):
    threading.Thread(target=time.sleep, args=(100000,), daemon=True).start()
{more}
i = 0
while True:
    i += 1
    with open("/out/count", "w") as file:
        file.write(str(i))
    time.sleep(0.02)
"""


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LoneRuntime]:
    made = LoneRuntime(tmp_path)
    yield made
    made.close()


class Pair:
    """A container with many rights and two volumes, and what becomes of its dump."""

    def __init__(self, runtime: LoneRuntime, more: str = "") -> None:
        self.runtime = runtime
        for name in ("out", "vol"):
            (runtime.folder / name).mkdir()
        (runtime.folder / "out/counting.py").write_text(THREADS.format(more=more))
        self.first = self._container("exec /usr/bin/python3 /out/counting.py")
        runtime.worker(create=self.first.cold)
        self.first.run()
        self.images = self.first.dump()

    def held(self) -> Privileges:
        return read_privileges(ImageFiles(self.images))

    def lowered(self, top: Privileges) -> Mapping[str, bytes]:
        changed = lower(ImageFiles(self.images), top)
        image_files.replace(self.images, changed)
        return changed

    def restore(self) -> Container:
        """Bring the dump back; how it went says ``said()``."""
        again = self._container("true", on=self.first)
        self.runtime.worker(create=lambda _: again.restored(self.images), restore_failed=lambda _: again.cold())
        assert again.create() == 0, again.said()
        assert again.call("start", again.id).returncode == 0
        return again

    def _container(self, command: str, **settings: Any) -> Container:
        made = self.runtime.container(command, spec=self._spec, **settings)
        made.counter = self.runtime.folder / "out/count"
        return made

    def _spec(self, config: dict[str, Any]) -> None:
        process, linux = config["process"], config["linux"]
        process["noNewPrivileges"] = False
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), MANY)
        process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
        process["oomScoreAdj"] = 100
        for name in ("out", "vol"):
            source = str(self.runtime.folder / name)
            config["mounts"].append(
                {"destination": f"/{name}", "type": "bind", "source": source, "options": ["rbind", "rw"]}
            )
        config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid"]})
        linux["readonlyPaths"] = ["/proc/sys"]
        linux["maskedPaths"] = ["/proc/keys", "/proc/sysvipc"]


def status(pid: int) -> list[dict[str, str]]:
    """Of every thread."""
    found = []
    for path in sorted(Path(f"/proc/{pid}/task").iterdir()):
        lines = (path / "status").read_text().splitlines()
        found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return found


def capabilities(pid: int, kind: str) -> list[tuple[str, ...]]:
    return [names_of(int(thread[kind], 16)) for thread in status(pid)]


def options(pid: int, place: str) -> list[str]:
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == place:
            return words[5].split(",")
    raise AssertionError(f"nothing is mounted at {place}")


def goes_on(pair: Pair, again: Container) -> None:
    before = again.count()
    eventually(lambda: again.count() > before, "the restored container counts")


def test_the_images_say_what_the_processes_and_mounts_were(runtime: LoneRuntime) -> None:
    pair = Pair(runtime)
    held = pair.held()
    assert held.bounding == held.permitted == held.effective == held.inheritable == held.ambient == tuple(sorted(MANY))
    assert held.no_new_privs is False
    assert dict(held.rlimits or ())["RLIMIT_NOFILE"] == 4096
    assert held.oom_score_adj == 100
    assert held.read_only is not None
    assert {"/vol", "/out", "/", "/sys"}.isdisjoint(held.read_only)
    assert "/proc/sys" in held.read_only
    assert held.masked == ("/proc/keys", "/proc/sysvipc")
    assert held.host_namespaces == ("cgroup", "time", "user")


def test_what_is_taken_from_every_thread_and_process_does_not_come_back(runtime: LoneRuntime) -> None:
    pair = Pair(runtime)
    few = ("CAP_CHOWN", "CAP_SETUID")
    changed = pair.lowered(
        Privileges(
            bounding=few,
            permitted=few,
            effective=few,
            inheritable=("CAP_CHOWN",),
            ambient=("CAP_CHOWN",),
            no_new_privs=True,
            rlimits=(("RLIMIT_NOFILE", 512),),
            oom_score_adj=250,
        )
    )
    assert len(changed) == 3
    again = pair.restore()
    pid = again.state().pid
    assert len(status(pid)) == 3
    for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert capabilities(pid, kind) == [("CAP_CHOWN",)] * 3, kind
    assert capabilities(pid, "CapBnd") == [few] * 3
    assert [thread["NoNewPrivs"] for thread in status(pid)] == ["1"] * 3
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max open files +512 +512 ", limits)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "250\n"
    goes_on(pair, again)


def test_what_is_left_as_it_is_comes_back_whole(runtime: LoneRuntime) -> None:
    pair = Pair(runtime)
    assert pair.lowered(Privileges()) == {}
    again = pair.restore()
    pid = again.state().pid
    assert capabilities(pid, "CapEff") == [tuple(sorted(MANY))] * 3
    assert "rw" in options(pid, "/vol")
    goes_on(pair, again)


@pytest.mark.parametrize("places", [("/vol",), ("/",), ("/sys", "/dev/shm"), ("/", "/sys", "/vol")])
def test_mounts_come_back_read_only(runtime: LoneRuntime, places: tuple[str, ...]) -> None:
    pair = Pair(runtime)
    pair.lowered(Privileges(read_only=places))
    heeded = set(places) - set(left_writable(places, parse_version(runtime.config.criu_version)))
    again = pair.restore()
    pid = again.state().pid
    for place in ("/", "/sys", "/vol", "/dev/shm", "/out"):
        assert ("ro" in options(pid, place)) == (place in heeded), place
    goes_on(pair, again)
    if "/vol" in places:
        with pytest.raises(OSError, match="Read-only"):
            (Path(f"/proc/{pid}/root/vol") / "new").write_text("x")


WRITES: dict[str, str] = {
    "file": "held = open('/vol/held', 'w')",
    "mapping": (
        "import mmap; held = open('/vol/held', 'w+b'); held.truncate(4096); kept = mmap.mmap(held.fileno(), 4096); held.close()"
    ),
    "socket": "import socket; held = socket.socket(socket.AF_UNIX); held.bind('/vol/held'); held.listen()",
}


@pytest.mark.parametrize("kind", list(WRITES))
def test_who_writes_to_a_mount_is_found_before_criu_finds_it(runtime: LoneRuntime, kind: str) -> None:
    pair = Pair(runtime, more=WRITES[kind])
    with pytest.raises(CannotLowerError, match=r"process 1 holds '/vol/held' open for writing"):
        pair.lowered(Privileges(read_only=("/vol",)))
    again = _restored(pair, _without_looking)
    assert "restore-failed" in again
    assert "create" in again


def test_who_only_reads_from_a_mount_or_writes_to_a_device_on_it_hinders_nothing(runtime: LoneRuntime) -> None:
    (runtime.folder / "vol-file").write_text("x")
    pair = Pair(
        runtime, more="held = open('/vol'.replace('vol', 'proc') + '/self/status'); null = open('/dev/null', 'w')"
    )
    pair.lowered(Privileges(read_only=("/dev", "/vol")))
    again = pair.restore()
    assert "ro" in options(again.state().pid, "/dev")
    goes_on(pair, again)


def test_a_second_place_of_a_volume_stays_writable_and_is_found_before(runtime: LoneRuntime) -> None:
    binds = "import os, subprocess; os.makedirs('/again'); subprocess.run(['mount', '--bind', '/vol', '/again'], check=True)"
    pair = Pair(runtime, more=binds)
    files = ImageFiles(pair.images)
    mounts = read_mounts(files, mount_namespaces(read_tree(files)))
    named = ("/", "/proc", "/dev", "/dev/shm", "/sys", "/out", "/vol", "/proc/sys")
    assert writable_aliases(mounts, named, ()) == ()
    assert writable_aliases(mounts, named, ("/vol",)) == ("/again",)
    pair.lowered(Privileges(read_only=("/vol",)))
    again = pair.restore()
    pid = again.state().pid
    assert "ro" in options(pid, "/vol")
    assert "rw" in options(pid, "/again")
    goes_on(pair, again)


def _without_looking(pair: Pair) -> None:
    """Make the mount read-only in the images although somebody writes to it."""
    name = next(iter(name for name in ImageFiles(pair.images) if name.startswith("mountpoints-")))
    images = {name: (pair.images / name).read_bytes()}
    changed = []
    for raw in messages(images, name):
        mount = Message(raw, "mount")
        flags = mount.uint32(FLAGS) | (READ_ONLY if mount.text(7) == "/vol" else 0)
        changed.append(mount.rewritten({FLAGS: number_field(FLAGS, flags)}))
    put(images, name, changed)
    image_files.replace(pair.images, images)


def _restored(pair: Pair, change: Callable[[Pair], None]) -> list[str]:
    change(pair)
    again = pair._container("sleep 1000", on=pair.first)
    worker = pair.runtime.worker(create=lambda _: again.restored(pair.images), restore_failed=lambda _: again.cold())
    again.create()
    return worker.tags()
