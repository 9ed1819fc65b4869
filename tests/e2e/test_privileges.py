"""The new container's spec is the upper bound: what a snapshot's processes hold beyond it is lowered, or they are not restored.

Each row narrows one field, and is asked from inside what the process can still do. The first container counts in memory and
keeps a random word, so that a restored process is told from a cold one. Everything is real: control plane, worker, runc, CRIU.
"""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from support.lone_runtime import eventually
from support.moved import PROGRAM
from support.node import Counting, Node, running_node
from support.security_modules import needs_apparmor, needs_limits, profile
from support.worker import query

from nodeworker import bundle
from nodeworker.capture.criu import criu as criu_tool
from nodeworker.domain.criu_options import CriuVersion, parse_version
from nodeworker.restore import privilege_check
from nodeworker.restore.privilege_check import Checked
from woodfrog.protocol.failures import PRIVILEGES_EXCEED, FailureError
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(180)]

Spec = dict[str, Any]
Change = Callable[[Spec], None]
MANY: Final = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN",
)  # fmt: skip
WORD: Final = "word = os.urandom(8).hex()"


def wide(config: Spec) -> None:
    """What a privileged pod has: many capabilities, no filter, nothing masked, everything writable."""
    process = config["process"]
    process["noNewPrivileges"] = False
    process["capabilities"] = {kind: list(MANY) for kind in ("bounding", "effective", "permitted", "inheritable")}
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
    process["oomScoreAdj"] = 0
    config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid"]})


def user(config: Spec) -> None:
    config["process"]["user"] = {"uid": 65534, "gid": 65534}


def without_capabilities(*sets: str, left: tuple[str, ...] = ()) -> Change:
    def change(config: Spec) -> None:
        for kind in sets:
            config["process"]["capabilities"][kind] = list(left)

    return change


def no_new_privs(config: Spec) -> None:
    config["process"]["noNewPrivileges"] = True


def no_new_privs_and_fewer_permitted(config: Spec) -> None:
    no_new_privs(config)
    without_capabilities("permitted", "effective", "inheritable", left=("CAP_CHOWN",))(config)


def seccomp(config: Spec) -> None:
    rules = [{"names": ["mount", "unshare"], "action": "SCMP_ACT_ERRNO"}]
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


def stricter_seccomp(config: Spec) -> None:
    seccomp(config)
    config["linux"]["seccomp"]["syscalls"][0]["names"].append("personality")


def masked(config: Spec) -> None:
    config["linux"]["maskedPaths"] = ["/proc/keys", "/proc/timer_list"]


def read_only_path(config: Spec) -> None:
    config["linux"]["readonlyPaths"] = ["/proc/sys"]


def read_only_sys(config: Spec) -> None:
    next(each for each in config["mounts"] if each["destination"] == "/sys")["options"].append("ro")


def read_only_root(config: Spec) -> None:
    config["root"]["readonly"] = True


def read_only_volume(config: Spec) -> None:
    next(each for each in config["mounts"] if each["destination"] == "/vol")["options"] = ["rbind", "ro"]


def fewer_files(config: Spec) -> None:
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]


def killed_sooner(config: Spec) -> None:
    config["process"]["oomScoreAdj"] = 700


def restricted(config: Spec) -> None:
    """What PodSecurity calls so, and more: every field at once, as the finding had it."""
    for change in (user, no_new_privs, seccomp, masked, read_only_path, read_only_root, read_only_volume):
        change(config)
    without_capabilities("bounding", "effective", "permitted", "inheritable")(config)


def shared(kind: str) -> Change:
    """With the node's namespace of a kind."""

    def change(config: Spec) -> None:
        config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != kind]

    return change


def nothing(_config: Spec) -> None:
    pass


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    """A node that all rows share, each with an id of its own."""
    with running_node() as node:
        node.start_worker()
        yield node


class Life:
    """A container, and the one after it, under one id."""

    def __init__(self, node: Node, name: str) -> None:
        self.node = node
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="wf-", dir="/var/tmp"))
        self.data, self.volume = self.folder / "data", self.folder / "vol"
        for place in (self.data, self.volume):
            place.mkdir()
            place.chmod(0o777)  # the user of a cold start may be another

    def begin(self, *changes: Change, first: str = "") -> Counting:
        def spec(config: Spec) -> None:
            config["process"]["args"] = ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM]
            config["process"]["env"].append(f"FIRST={WORD}; {first}")
            for place in (self.data, self.volume):
                bind = {"type": "bind", "source": str(place), "options": ["rbind", "rw"]}
                config["mounts"].append(bind | {"destination": f"/{place.name}"})
            for change in changes:
                change(config)

        made = Counting(self.node, checkpoint_id=self.name, spec=spec)
        made.counter = self.data / "count"
        (made.rootfs / "data").mkdir()
        (made.rootfs / "vol").mkdir()
        assert made.create() == 0, made.said()
        started = made.call("start", made.id)
        assert started.returncode == 0, started.stderr
        eventually(lambda: self.ask("number") > 1, "it counts")
        self.last = made
        return made

    def end(self, container: Counting) -> None:
        for each in self.data.iterdir():
            each.chmod(0o666)  # whoever starts cold may be another user; CRIU wants the mode of the dump
        assert container.call("kill", container.id, "TERM").returncode == 0
        eventually(lambda: not container.alive(), "it is dead")
        assert container.call("delete", container.id).returncode == 0

    def ask(self, question: str) -> Any:
        """Ask the program inside for the value of an expression."""
        answer = self.data / "answer"
        answer.unlink(missing_ok=True)
        (self.data / "question.new").write_text(question)
        (self.data / "question.new").chmod(0o666)
        (self.data / "question.new").rename(self.data / "question")
        eventually(answer.exists, f"the program answers {question}", 20)
        return json.loads(answer.read_text())

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What the log says of the id."""

        async def read() -> list[dict[str, Any]]:
            client = await connect(self.node.nats.url, name="test")
            try:
                return await query(client, "events", key=CheckpointKey("local", "default", self.name))
            finally:
                await client.close()

        rows = asyncio.run(read())
        return [row["data"] for row in rows if row["type"] in kinds]

    def reason(self, kind: str) -> str:
        return str(eventually(lambda: self.events(kind), f"the log has {kind}")[-1]["reason"])


@pytest.fixture
def life(machine: Node, request: pytest.FixtureRequest) -> Iterator[Life]:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name).strip("-")
    made = Life(machine, name)
    yield made
    shutil.rmtree(made.folder)


OPEN: Final = "error(lambda: os.close(os.open({!r}, os.O_CREAT | os.O_WRONLY)))"
CAPABILITY: Final = "[line.split()[1] for line in open('/proc/self/status') if line.startswith({!r})][0]"


@dataclass(frozen=True)
class Row:
    """One field: how the spec is narrowed, what is asked inside, with the answers before and after, and what the reason names."""

    narrower: Change
    question: str
    before: Any
    after: Any
    named: str
    cold: bool = False
    first: str = ""


MOUNT: Final = "syscall(165, b'none', b'/vol', b'tmpfs', 0, None) or libc.umount(b'/vol')"
LOWERED: Final = {
    "bounding": Row(
        without_capabilities("bounding", "effective", "permitted", "inheritable", left=("CAP_CHOWN",)),
        MOUNT, 0, 1, "CAP_SYS_ADMIN",
    ),
    "permitted": Row(
        no_new_privs_and_fewer_permitted, CAPABILITY.format("CapPrm"), "00000000082020e3", "0000000000000001", "(permitted)"
    ),
    "inheritable": Row(
        without_capabilities("bounding", "effective", "permitted", "inheritable", left=("CAP_CHOWN",)),
        CAPABILITY.format("CapInh"), "00000000082020e3", "0000000000000001", "(inheritable)",
    ),
    "no_new_privs": Row(no_new_privs, "libc.prctl(39, 0, 0, 0, 0)", 0, 1, "no_new_privs"),
    "sysfs": Row(read_only_sys, OPEN.format("/sys/kernel/uevent_helper-none"), 13, 30, "/sys"),
    "volume": Row(read_only_volume, OPEN.format("/vol/file"), 0, 30, "/vol"),
    "rlimits": Row(fewer_files, "resource.getrlimit(resource.RLIMIT_NOFILE)", [1024, 4096], [512, 512], "RLIMIT_NOFILE"),
    "oom_score_adj": Row(killed_sooner, "int(open('/proc/self/oom_score_adj').read())", 0, 700, "oom_score_adj"),
}  # fmt: skip
REFUSED: Final = {
    "user": Row(user, "os.getuid()", 0, 65534, "users 0"),
    "seccomp": Row(seccomp, MOUNT, 0, 1, "seccomp filter"),
    "masked": Row(masked, "os.stat('/proc/keys').st_rdev > 0", False, True, "/proc/keys"),
    "read-only path": Row(read_only_path, OPEN.format("/proc/sys/kernel/domainname"), 0, 30, "/proc/sys"),
    "volume that is written to": Row(
        read_only_volume, OPEN.format("/vol/file"), 0, 30, "open for writing", first="held = open('/vol/held', 'w') if error(os.stat, '/vol/held') else None"
    ),
    "mounts": Row(
        without_capabilities("bounding", "effective", "permitted", "inheritable", left=("CAP_CHOWN", "CAP_DAC_OVERRIDE")),
        "os.path.exists('/second/sys')", True, False, "/second",
        first="os.makedirs('/second', exist_ok=True); syscall(165, b'proc', b'/second', b'proc', 0, None)",
    ),
    "everything": Row(restricted, MOUNT, 0, 1, "seccomp filter"),
}  # fmt: skip


def moved(life: Life, row: Row, *before: Change) -> str:
    """Run the first container, then the one with the narrower spec; answers the first one's word."""
    first = life.begin(wide, *before, first=row.first)
    word = str(life.ask("word"))
    assert life.ask(row.question) == row.before
    life.end(first)
    life.begin(wide, row.narrower, first=row.first)
    return word


@pytest.mark.parametrize("name", LOWERED)
def test_what_can_be_taken_from_the_processes_is_and_they_go_on(life: Life, name: str) -> None:
    row = LOWERED[name]
    word = moved(life, row)
    assert life.ask("word") == word
    assert life.ask(row.question) == row.after
    assert row.named in life.reason("incarnation.restore-chosen")
    warnings = life.events("container.started")[-1]["warnings"]
    assert all(each.startswith("lowered to what the new container allows") for each in warnings)
    assert any(row.named in each for each in warnings)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_from_the_processes_starts_cold_and_the_reason_names_it(life: Life, name: str) -> None:
    row = REFUSED[name]
    word = moved(life, row)
    assert life.ask("word") != word
    assert life.ask(row.question) == row.after
    assert row.named in life.reason("incarnation.cold-start-chosen")


def test_a_root_file_system_becomes_read_only_and_stays_so_whichever_criu_restores_it(life: Life) -> None:
    row = Row(read_only_root, OPEN.format("/file"), 0, 30, "write to /,")
    word = moved(life, row)
    assert (life.ask("word"), life.ask(row.question)) == (word, row.after)
    assert row.named in life.reason("incarnation.restore-chosen")
    life.end(life.last)
    life.begin(wide, read_only_root)
    assert (life.ask("word"), life.ask(row.question)) == (word, row.after)


@needs_limits
def test_an_ambient_capability_is_taken_with_what_came_of_it(life: Life) -> None:
    def ambient(config: Spec) -> None:
        user(config)
        config["process"]["capabilities"] |= {"ambient": ["CAP_NET_RAW"], "inheritable": ["CAP_NET_RAW"]}

    row = Row(user, CAPABILITY.format("CapPrm"), "0000000000002000", "0000000000000000", "(ambient)")
    word = moved(life, row, ambient)
    assert (life.ask("word"), life.ask(row.question)) == (word, row.after)


@needs_apparmor
def test_processes_are_confined_by_the_profile_of_the_new_container(life: Life) -> None:
    with profile(life.folder) as name:

        def confined(config: Spec) -> None:
            config["process"]["apparmorProfile"] = name

        (life.data / "denied").mkdir(mode=0o777)
        row = Row(confined, OPEN.format("/data/denied/file"), 0, 13, name)
        word = moved(life, row)
        assert (life.ask("word"), life.ask(row.question)) == (word, row.after)


@pytest.mark.parametrize("kind", ["pid", "ipc"])
def test_a_snapshot_from_a_namespace_of_the_node_is_not_restored_into_a_container_with_its_own(
    life: Life, kind: str
) -> None:
    row = Row(nothing, "os.getpid() == 1", kind != "pid", True, f"node's own {kind}")
    word = moved(life, row, shared(kind))
    assert life.ask("word") != word
    assert row.named in life.reason("incarnation.cold-start-chosen")


EQUAL: Final[dict[str, tuple[Change, ...]]] = {
    "wide": (wide,),
    "narrow": (
        wide, no_new_privs_and_fewer_permitted, seccomp, masked, read_only_path, read_only_sys, read_only_root,
        read_only_volume, fewer_files, killed_sooner,
    ),
}  # fmt: skip
GROUPS: Final = "os.setgroups([5, 6])"


@pytest.mark.parametrize("name", EQUAL)
def test_the_same_spec_always_goes_on_with_nothing_taken(life: Life, name: str) -> None:
    begins_with = "" if name == "narrow" else GROUPS
    first = life.begin(*EQUAL[name], first=begins_with)
    word, number = life.ask("word"), life.ask("number")
    status = life.ask("[line for line in open('/proc/self/status') if line[:3] in ('Cap', 'NoN', 'Gro', 'Uid', 'Sec')]")
    life.end(first)
    life.begin(*EQUAL[name], first=begins_with)
    assert (life.ask("word"), life.ask("number") > number) == (word, True)
    assert status == life.ask(
        "[line for line in open('/proc/self/status') if line[:3] in ('Cap', 'NoN', 'Gro', 'Uid', 'Sec')]"
    )
    assert "lowered" not in life.reason("incarnation.restore-chosen")
    assert life.events("container.started")[-1].get("warnings", []) == []


def test_a_wider_spec_goes_on(life: Life) -> None:
    first = life.begin(*EQUAL["narrow"])
    word = life.ask("word")
    life.end(first)
    life.begin(wide)
    assert life.ask("word") == word
    assert life.events("container.started")[-1].get("warnings", []) == []


@pytest.mark.parametrize("grows", [True, False])
def test_another_seccomp_profile_goes_on_if_it_lets_through_what_the_filter_does(life: Life, grows: bool) -> None:
    """As when a newer engine's default allows more, or less."""
    old, new = (stricter_seccomp, seccomp) if grows else (seccomp, stricter_seccomp)
    first = life.begin(wide, old)
    word = life.ask("word")
    life.end(first)
    life.begin(wide, new)
    assert (life.ask("word") == word) is grows
    if not grows:
        assert "its seccomp filter lets through personality" in life.reason("incarnation.cold-start-chosen")


def checked(images: Path, narrow: Path, criu: CriuVersion) -> Checked:
    live = bundle.read(str(narrow))
    assert live.facts.privileges is not None
    return privilege_check.check(images, live, live.facts.privileges, None, criu)


@pytest.mark.parametrize("name", [*REFUSED, *LOWERED])
def test_the_worker_finds_by_the_images_alone_what_no_record_speaks_of(life: Life, name: str) -> None:
    """As of a snapshot that is older than the records, or whose record lies."""
    row = (REFUSED | LOWERED)[name]
    first = life.begin(wide, first=row.first)
    images = first.dump()
    narrow = life.folder / "narrow"
    narrow.mkdir()
    config = json.loads((first.bundle / "config.json").read_text())
    row.narrower(copy.deepcopy(config) if row.narrower is nothing else config)
    (narrow / "config.json").write_text(json.dumps(config))
    criu = parse_version(criu_tool.version(life.node.runtime.criu))
    assert first.call("delete", first.id).returncode == 0
    if name in REFUSED:
        with pytest.raises(FailureError) as refused:
            checked(images, narrow, criu)
        assert refused.value.failure.code == PRIVILEGES_EXCEED
        assert row.named in refused.value.failure.cause
    else:
        assert any(row.named in each for each in checked(images, narrow, criu).lowered)
        assert checked(images, narrow, criu).lowered == ()


def test_a_worker_that_is_told_so_restores_what_was_dumped() -> None:
    with running_node() as node:
        node.start_worker(WOODFROG_PRIVILEGES="snapshot")
        life = Life(node, "as-dumped")
        word = moved(life, REFUSED["seccomp"])
        assert (life.ask("word"), life.ask(MOUNT)) == (word, 0)
        shutil.rmtree(life.folder)
