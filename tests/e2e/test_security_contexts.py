"""What a container may and may not do is the same after a restore: users, filters, profiles, limits, namespaces, mounts.

Each program counts, so that continuity is proven and not liveness, and answers questions from inside. The rest is read from
outside, in /proc. The directory is not private, because a container in a user namespace has to reach its root file system.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.lone_runtime import LoneRuntime, eventually
from support.moved import Moved, Spec
from support.node import Counting, Node
from support.security_modules import needs_apparmor, needs_limits, profile

from nodeworker.capture import user_namespace
from nodeworker.capture.criu import criu as criu_tool
from nodeworker.host.facts import cgroup_version
from woodfrog.protocol.failures import FailureError
from woodfrog.service.procfs import status_fields

pytestmark = [pytest.mark.criu, pytest.mark.timeout(120)]

V2: Final = cgroup_version(Path("/proc/self/mounts")) == 2
MIB: Final = 1 << 20


@pytest.fixture
def runtime() -> Iterator[LoneRuntime]:
    with tempfile.TemporaryDirectory(prefix="wf-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        made = LoneRuntime(Path(folder))
        made.run_dir.chmod(0o700)  # as the worker makes it
        yield made
        made.close()


def unchanged(_config: Spec) -> None:
    pass


def capabilities(*names: str) -> dict[str, list[str]]:
    return {kind: list(names) for kind in ("bounding", "effective", "permitted", "inheritable")}


def as_nobody(config: Spec) -> None:
    config["process"]["user"] = {"uid": 1000, "gid": 3000, "additionalGids": [2000, 4000], "umask": 0o027}
    config["process"]["capabilities"] = capabilities()


@needs_limits
def test_a_user_without_capabilities_stays_that_user_with_its_groups(runtime: LoneRuntime) -> None:
    moved = Moved(runtime, as_nobody, owner=1000)
    before = moved.identities()
    moved.move(as_nobody)
    assert moved.identities() == before
    (identity,) = before
    assert (identity["Uid"], identity["Gid"], identity["Groups"]) == (
        "\t".join(["1000"] * 4),
        "\t".join(["3000"] * 4),
        "2000 4000",
    )
    assert (identity["CapEff"], identity["CapBnd"], identity["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert moved.ask("os.getresuid() + os.getresgid()") == [1000] * 3 + [3000] * 3
    assert moved.ask("error(os.setuid, 0)") == 1
    assert moved.ask("os.umask(0o027)") == 0o027


WORKERS: Final = """
for uid in (33, 999):
    if os.fork() == 0:
        libc.prctl(8, 1) if uid == 999 else None
        os.setgroups([uid, 2000])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        while True:
            time.sleep(0.1)
"""
"""What nginx and PostgreSQL's starter do: a first process of root, and workers of other users; one keeps its capabilities."""


@needs_limits
def test_workers_that_became_other_users_stay_those(runtime: LoneRuntime) -> None:
    def change(config: Spec) -> None:
        config["process"]["capabilities"] = capabilities("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_NET_BIND_SERVICE")

    moved = Moved(runtime, change, first=WORKERS)
    eventually(
        lambda: [each["Uid"] for each in moved.identities()][1:] == ["\t".join([uid] * 4) for uid in ("33", "999")],
        "the workers have become other users",
    )
    before = moved.identities()
    moved.move(change)
    assert moved.identities() == before
    assert before[0]["CapEff"] != before[1]["CapEff"] == "0" * 16
    assert before[2]["CapPrm"] == before[0]["CapPrm"]


@contextmanager
def groups(*numbers: int) -> Iterator[None]:
    """Be in these groups, as an engine is that was started from a login."""
    before = os.getgroups()
    os.setgroups(numbers)
    try:
        yield
    finally:
        os.setgroups(before)


def test_a_process_without_groups_does_not_get_the_engines(runtime: LoneRuntime) -> None:
    moved = Moved(runtime, unchanged)
    assert moved.identities()[0]["Groups"] == ""
    with groups(27, 4242):
        moved.move(unchanged)
    assert moved.identities()[0]["Groups"] == ""


ALLOWED: Final = (
    "access", "arch_prctl", "brk", "capget", "capset", "chdir", "clock_gettime", "clock_nanosleep", "clone",
    "clone3", "close", "close_range", "connect", "dup", "dup2", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait",
    "execve", "exit", "exit_group", "faccessat", "faccessat2", "fchmod", "fchown", "fcntl", "fdatasync", "flock",
    "fstat", "fstatfs", "fsync", "ftruncate", "futex", "getcwd", "getdents64", "getegid", "geteuid", "getgid",
    "getgroups", "getpgrp", "getpid", "getppid", "getrandom", "getresgid", "getresuid", "getrlimit", "getsid",
    "gettid", "gettimeofday", "getuid", "ioctl", "kill", "lseek", "lstat", "madvise", "membarrier", "mmap",
    "mprotect", "mremap", "munmap", "nanosleep", "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "poll",
    "ppoll", "prctl", "pread64", "prlimit64", "pselect6", "pwrite64", "read", "readlink", "readlinkat", "readv",
    "rename", "renameat", "renameat2", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigreturn", "rt_sigsuspend", "sched_getaffinity", "sched_yield", "select", "set_robust_list",
    "set_tid_address", "setgid", "setgroups", "setpgid", "setsid", "setuid", "sigaltstack", "socket", "stat",
    "statfs", "statx", "sysinfo", "tgkill", "umask", "uname", "unlink", "unlinkat", "wait4", "waitid", "write",
    "writev",
)  # fmt: skip


def filtered(config: Spec) -> None:
    """An allowlist, as RuntimeDefault has; what is not in it is answered with EPERM, and io_uring as if there were none."""
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"},
            {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0xFFFFFFFF, "op": "SCMP_CMP_EQ"}],
            },
        ],
    }


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are named by their numbers on x86-64")
def test_a_seccomp_filter_denies_after_a_restore_what_it_denied_before(runtime: LoneRuntime) -> None:
    questions = {
        "error(os.mkdir, '/data/denied')": 1,
        "syscall(425, 1, None)": 38,
        "syscall(135, 0)": 1,
        "syscall(135, ctypes.c_ulong(0xFFFFFFFF))": 0,
        "syscall(39)": 0,
    }
    moved = Moved(runtime, filtered)
    before = moved.identities()
    assert before[0]["Seccomp"] == "2"
    assert {each: moved.ask(each) for each in questions} == questions
    moved.move(filtered)
    assert moved.identities() == before
    assert {each: moved.ask(each) for each in questions} == questions


def confinement(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().strip("\n\0")


@needs_apparmor
def test_an_apparmor_profile_confines_after_a_restore_what_it_confined_before(runtime: LoneRuntime) -> None:
    question = "error(os.open, '/data/denied/file', os.O_CREAT | os.O_WRONLY)"
    with profile(runtime.folder) as name:

        def change(config: Spec) -> None:
            config["process"]["apparmorProfile"] = name

        moved = Moved(runtime, change)
        (moved.data / "denied").mkdir()
        assert (confinement(moved.pid), moved.ask(question)) == (f"{name} (enforce)", 13)
        moved.move(change)
        assert (confinement(moved.pid), moved.ask(question)) == (f"{name} (enforce)", 13)
        moved.container.call("kill", moved.container.id, "KILL")


@needs_apparmor
def test_a_profile_that_the_node_does_not_have_fails_a_restore_for_that_reason(runtime: LoneRuntime) -> None:
    def change(config: Spec) -> None:
        config["process"]["apparmorProfile"] = name

    with profile(runtime.folder) as name:
        moved = Moved(runtime, change)
        images = moved.dump()
        assert moved.old.call("delete", moved.old.id).returncode == 0
    second = moved.make(change)
    worker = runtime.worker(create=lambda _ask: second.restored(images), restore_failed=second.cold)
    second.create()
    (asked,) = [each for each in worker.asked if each.__struct_config__.tag == "restore-failed"]
    failure = criu_tool.explain(second.bundle / "work" / "restore.log", asked.message)
    assert failure.code == "security-profile"


LIMITS: Final = {
    "NOFILE": (1000, 2000),
    "CORE": (0, 1 << 20),
    "STACK": (4 << 20, 16 << 20),
    "NPROC": (500, 600),
    "MEMLOCK": (1 << 16, 1 << 17),
}


def limited(config: Spec) -> None:
    config["process"]["rlimits"] = [
        {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, (soft, hard) in LIMITS.items()
    ]
    config["process"]["oomScoreAdj"] = 500


def test_limits_and_the_oom_score_of_processes_are_the_same_after_a_restore(runtime: LoneRuntime) -> None:
    def seen() -> dict[str, tuple[int, int]]:
        return {name: resource.prlimit(moved.pid, getattr(resource, f"RLIMIT_{name}")) for name in LIMITS}

    moved = Moved(runtime, limited)
    before = Path(f"/proc/{moved.pid}/limits").read_text()
    assert seen() == LIMITS
    moved.move(unchanged)
    assert seen() == LIMITS
    assert Path(f"/proc/{moved.pid}/limits").read_text() == before
    assert Path(f"/proc/{moved.pid}/oom_score_adj").read_text() == "500\n"


def mounts(pid: int) -> dict[str, tuple[str, set[str], str, str]]:
    """Every mount: its place, with type and options."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        place, options = left.split()[4:6]
        kind, _, of_fs = right.split()[:3]
        found[place] = (kind, set(options.split(",")) - {"relatime"}, left.split()[3], of_fs)
    return found


def hidden(config: Spec) -> None:
    config["mounts"][0]["options"] = ["nosuid", "noexec", "nodev", "hidepid=2"]


def test_proc_mounted_with_hidepid_hides_as_before(runtime: LoneRuntime) -> None:
    moved = Moved(runtime, hidden)
    before = mounts(moved.pid)["/proc"]
    assert "hidepid=invisible" in before[3]
    moved.move(hidden)
    assert mounts(moved.pid)["/proc"] == before


MASKED: Final = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def confined(config: Spec) -> None:
    config["root"]["readonly"] = True
    config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
    config["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]}
    )
    config["linux"]["maskedPaths"] = list(MASKED)
    config["linux"]["readonlyPaths"] = list(READ_ONLY)


def test_a_read_only_root_and_masked_and_read_only_paths_stay_so(runtime: LoneRuntime) -> None:
    questions = {
        "error(os.open, '/file', os.O_CREAT | os.O_WRONLY)": 30,
        "error(os.open, '/proc/sys/kernel/domainname', os.O_WRONLY)": 30,
        "[len(open(each).read()) for each in ('/proc/keys', '/proc/timer_list')]": [0, 0],
        "os.listdir('/sys/firmware')": [],
        "open('/tmp/kept').read()": "kept",
    }
    moved = Moved(runtime, confined, first="open('/tmp/kept', 'w').write('kept')")
    before = mounts(moved.pid)
    assert {each: moved.ask(each) for each in questions} == questions
    moved.move(confined)
    assert {each: moved.ask(each) for each in questions} == questions
    after = mounts(moved.pid)
    assert set(after) == set(before)
    read_only = {place for place, (_, options, *_) in before.items() if "ro" in options}
    assert read_only == {place for place, (_, options, *_) in after.items() if "ro" in options}
    assert {"/", "/proc/sys", "/sys/firmware"} <= read_only


MAPPING: Final = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]


def in_a_user_namespace(config: Spec, path: str | None = None) -> None:
    """Map users as engines do, into a user namespace of the container's own or into one that is there."""
    config["linux"]["namespaces"].append({"type": "user"} | ({} if path is None else {"path": path}))
    config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    config["process"]["user"] = {"uid": 33, "gid": 33, "additionalGids": [2000]}
    config["process"]["capabilities"] = capabilities("CAP_CHOWN")


@needs_limits
def test_a_container_in_a_user_namespace_of_its_own_gets_one_again(runtime: LoneRuntime) -> None:
    moved = Moved(runtime, in_a_user_namespace, owner=100_033)
    before = moved.identities()
    assert before[0]["Uid"] == "\t".join(["100033"] * 4)
    images = moved.dump()
    user_namespace.let_in(images)
    moved.restore(images, in_a_user_namespace)
    assert moved.identities() == before
    assert Path(f"/proc/{moved.pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    assert Path(f"/proc/{moved.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    assert moved.ask("os.getresuid()") == [33] * 3


@needs_limits
@pytest.mark.nats
def test_processes_and_files_of_users_of_its_own_travel_through_the_store(node: Node) -> None:
    """With the real worker, which keeps everything in private directories."""
    node.folder.chmod(0o711)
    node.runtime.run_dir.chmod(0o700)
    node.start_worker()
    first = Counting(node, spec=in_a_user_namespace)
    (first.rootfs / "numbers").touch()
    os.chown(first.rootfs / "numbers", 100_033, 100_033)
    first.run()
    first.until(20)
    assert first.call("kill", first.id, "TERM").returncode == 0
    eventually(lambda: not first.alive(), "the container is dead")
    reached = first.count()
    assert first.call("delete", first.id).returncode == 0
    second = Counting(node, spec=in_a_user_namespace)
    second.run()
    second.until(reached + 5)
    assert second.has_counted_without_a_gap()
    assert (second.upper / "numbers").stat().st_uid == 100_033


@pytest.mark.parametrize(
    ("namespaces", "code"), [(["--user"], "nested-namespaces"), (["--uts"], None)], ids=["user", "uts"]
)
def test_a_user_namespace_inside_the_container_is_refused_before_the_freeze(
    runtime: LoneRuntime, namespaces: list[str], code: str | None
) -> None:
    """Such as bubblewrap and browsers make; CRIU cannot dump one. Namespaces of other kinds are its own business."""
    command = ["/usr/bin/unshare", *namespaces, "/bin/sleep", "1000"]

    def change(config: Spec) -> None:
        config["process"]["capabilities"] = capabilities("CAP_SYS_ADMIN")

    moved = Moved(runtime, change, first=f"os.posix_spawn({command[0]!r}, {command!r}, os.environ)")
    freezer = moved.container.state().freezer
    names = lambda: [status_fields(pid)["Name"] for pid in freezer.pids()]  # noqa: E731 -- used here only
    eventually(lambda: "sleep" in names(), "the process is in its namespace")
    try:
        user_namespace.refuse_nested(freezer.pids(), moved.pid)
        found = None
    except FailureError as problem:
        found = problem.failure.code
    assert found == code


@contextmanager
def swap() -> Iterator[None]:
    """A swap file of 256 MiB in use."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        file = Path(folder) / "swap"
        with file.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, 256 * MIB)
        file.chmod(0o600)
        subprocess.run(["/usr/sbin/mkswap", file], check=True, capture_output=True, timeout=60)
        subprocess.run(["/usr/sbin/swapon", file], check=True, capture_output=True, timeout=60)
        try:
            yield
        finally:
            subprocess.run(["/usr/sbin/swapoff", file], check=True, capture_output=True, timeout=120)


@pytest.mark.skipif(not V2, reason="cgroup v2 only")
def test_memory_that_was_swapped_out_comes_back_under_the_new_containers_swap_limit(runtime: LoneRuntime) -> None:
    resources = {"memory": {"limit": 48 * MIB, "swap": 48 * MIB + 128 * MIB}}
    held = "import random; random.seed(7); held = [random.randbytes(1 << 16) for _ in range(16 * 64)]"
    question = "[__import__('zlib').crc32(each) for each in held]"
    with swap():
        moved = Moved(runtime, unchanged, first=held, resources=resources)
        folder = Path(moved.container.state().cgroup_paths[""])
        assert int((folder / "memory.swap.current").read_text()) > 8 * MIB
        images = moved.dump()
        moved.restore(images, unchanged)
        folder = Path(moved.container.state().cgroup_paths[""])
        assert int((folder / "memory.max").read_text()) == 48 * MIB
        assert int((folder / "memory.swap.max").read_text()) == 128 * MIB
        assert int((folder / "memory.swap.current").read_text()) > 8 * MIB
        found: dict[str, Any] = {}
        exec(held, found)
        assert moved.ask(question) == eval(question, found)
        moved.container.call("kill", moved.container.id, "KILL")
        eventually(lambda: not moved.container.alive(), "the container has ended")


@contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """Have so many more huge pages on the machine."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    before = int(setting.read_text())
    setting.write_text(str(before + count))
    try:
        assert int(setting.read_text()) == before + count, "the kernel has no room for huge pages"
        yield
    finally:
        setting.write_text(str(before))


HUGE: Final = """
huge = [mmap.mmap(-1, 4 << 20, flags=kind | mmap.MAP_ANONYMOUS | 0x40000) for kind in (mmap.MAP_PRIVATE, mmap.MAP_SHARED)]
for area in huge:
    area[:7] = area[(2 << 20) + 5:(2 << 20) + 12] = b"written"
"""


def test_anonymous_memory_of_huge_pages_is_the_same_and_still_of_huge_pages(runtime: LoneRuntime) -> None:
    def sizes() -> int:
        return Path(f"/proc/{moved.pid}/smaps").read_text().count("KernelPageSize:     2048 kB")

    with huge_pages(8):
        moved = Moved(runtime, unchanged, first=HUGE)
        assert sizes() == 2
        moved.move(unchanged)
        assert sizes() == 2
        assert (
            moved.ask("[area[place:place + 7].decode() for area in huge for place in (0, (2 << 20) + 5)]")
            == ["written"] * 4
        )
        moved.container.call("kill", moved.container.id, "KILL")
        eventually(lambda: not moved.container.alive(), "the container has ended")
