"""What CRIU's complaints mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.capture.criu import criu
from nodeworker.domain import criu_complaints, criu_failures, failure_page
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)

PAGE = Path(__file__).parents[4] / "docs/reference/failures.md"

COMPLAINTS = {
    "Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (unknown anon_inode:[io_uring])": "io-uring",
    "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.": "tcp-connection",
    "Error (criu/sk-inet.c:188): inet: In-flight connection (l) for 6f": "in-flight-connection",
    "Error (criu/sk-unix.c:506): unix: Non-empty write queue on an in-flight socket 0x95688": "in-flight-connection",
    "Error (criu/files-reg.c:1): Can't create link remap for /x. Use link-remap option.": "link-remap",
    "Error (criu/files-reg.c:1): Can't dump ghost file /x of 9000000 size, increase limit": "ghost-file-too-large",
    "Error (criu/mount.c:1): mnt: No mapping for 612:/data mountpoint": "mount-missing",
    "Error (criu/mount.c:1): mnt: Mount 5 ./x (master_id: 1 shared_id: 0) has unreachable sharing. Try": "mount-propagation",
    "Error (criu/files-reg.c:2): File usr/bin/python3 has bad size 7 (expect 8)": "file-changed",
    "Error (criu/files-reg.c:2): File usr/bin/python3 has bad mode 0100644 (expect 0100755)": "file-changed",
    "Error (criu/sk-unix.c:1): unix: External socket is used. Consider using --ext-unix-sk option.": "external-socket",
    "Error (criu/file-lock.c:1): Some file locks are hold by dumping tasks! You can try --file-locks": "file-locks",
    "Error (criu/shmem.c:1): Task 5 with SysVIPC shmem map @7f doesn't live in IPC ns": "outside-ipc",
    "Error (criu/cpu.c:1): cpu: CPU xfeatures has unsupported bits (0x2)": "cpu-differs",
    "Error (criu/cpu.c:1): cpu: CPU xsave size mismatch (1/2)": "cpu-differs",
    "Error (criu/seize.c:1): Unable to freeze cgroup /x (600 x 100ms attempts, timeout: 60s)": "freeze-timeout",
    "Error (criu/files-reg.c:2353): Can't open file cfg/..2026_11_25_16_39_13.451096938/app.conf on restore": "config-held",
    "Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted": "capability-missing",
    "Error (criu/mount.c:1): mnt: Nested mount namespaces are not supported without mnt_id in fdinfo": "nested-namespaces",
    "Error (criu/image.c:93): Need to set the --tcp-close options.": "tcp-close-differs",
    "Error (soccr/soccr.c:819): Can't restore not-sent send queue data (-1), want (0-1016:4163072:1016): Broken pipe": "tcp-state",
    "Error (soccr/soccr.c:371): \trecv failed (12, want 10): Success": "tcp-state",
    "Error (soccr/soccr.c:499): Can't bind inet socket back: Cannot assign requested address": "tcp-state",
    "Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 5): Cannot assign requested address": "address-taken",
    "Error (criu/plugin.c:1): cuda_plugin: CHECKPOINT_DEVICES failed with 1": "cuda",
    "Error (criu/image.c:1): Can't write 4096 bytes: No space left on device": "disk-full",
    "Error (criu/vdso.c:1): vdso: Unexpected rt vDSO area bounds": "kernel-too-new",
    "Error (criu/x.c:1): Can't unshare user namespace: No space left on device": "kernel-limit",
    "Error (criu/fsnotify.c:1): fsnotify: Can't add watch for 5 with 6: No space left on device": "kernel-limit",
    "Error (criu/proc_parse.c:502): Unknown shit 100600 (/secretmem (deleted))": "memfd-secret",
    "Error (criu/eventpoll.c:1): Dump eventpoll (pid: 336) failed with -1": "eventpoll",
    "Error (criu/pipes.c:416): OOM storing pipe": "too-many-pipes",
    "Error (criu/sk-netlink.c:134): The netlink socket 0x2a3a4 has more than 32 groups": "netlink",
    "Error (criu/sockets.c:767): BUG! Unknown socket collected (family 40)": "socket-family",
    "Error (compel/src/lib/infect.c:1): Unseizable non-zombie 13041 found, state S, err -1/10": "foreign-process",
    "Error (criu/cr-dump.c:1): A session leader of zombie process 11630(7) is outside of its pid namespace": "foreign-process",
    "Error (criu/tty.c:1830): tty: Found dangling tty with sid 6 pgid 6 (pts) on peer fd 1.": "terminal-session",
    "Error (criu/files-reg.c:1790): Can't lookup mount=98 for fd=3 path=/q27": "file-outside",
    "Error (criu/mount-v2.c:396): mnt-v2: Can't re-create deleted file /v/cfg: File exists": "mount-deleted",
    "Error (criu/seize.c:335): zombie 2922 (comm sh) found while seizing": "traced",
}


@pytest.mark.parametrize(("line", "code"), COMPLAINTS.items())
def test_a_complaint_is_turned_into_a_code_with_advice(line: str, code: str) -> None:
    failure = criu_failures.explain(
        f"(00.001) all is well\n(00.002) {line}\n(00.003) Error (criu/cr-dump.c:1): FAILED\n"
    )
    assert failure.code == code
    assert failure.cause
    assert failure.advice
    assert line in failure.detail


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("File usr/bin/python3 has bad size 7 (expect 8)", ": usr/bin/python3 has bad size 7 (expect 8)"),
        ("Can't open file vol/x on restore: No such file or directory", ": vol/x"),
        ("Can't open file v/fifo: No such file or directory", ": v/fifo"),
        ("Can't lookup mount=98 for fd=3 path=/q27", ": fd=3 /q27"),
        ("Can't dump ghost file /var/tmp/#56 of 629149696 size, increase limit", ": /var/tmp/#56 629149696"),
        ("mnt: No mapping for 612:/data mountpoint", ": /data"),
        ("Can't dump file 5 of that type [600] (chr 5:1)", ": 5 chr 5:1"),
        ("File vol/\x1b[31mred has bad size 7 (expect 8)", ": vol/?[31mred has bad size 7 (expect 8)"),
    ],
)
def test_the_cause_names_what_the_line_names(line: str, named: str) -> None:
    assert criu_failures.explain(f"(00.1) Error (criu/x.c:1): {line}\n").cause.endswith(named)


def test_a_complaint_of_every_dump_is_no_cause_and_no_detail() -> None:
    noise = "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"
    failure = criu_failures.explain(f"(00.1) {noise}\n(00.2) Error (criu/y.c:2): something new\n")
    assert failure.code == "criu-failed"
    assert "RLIMIT_NOFILE" not in failure.detail


def test_a_tracer_is_named_before_the_time_limit_that_it_costs() -> None:
    log = "Error (criu/seize.c:335): zombie 29 (comm sh) found while seizing\nError (criu/seize.c:1): Timeout reached. Try to interrupt: 0\n"
    assert criu_failures.explain(log).code == "traced"


def test_a_warning_is_no_cause() -> None:
    log = "(00.1) Warn  (criu/x.c:1): anon_inode:[io_uring]\n(00.2) Error (criu/y.c:2): something new\n"
    failure = criu_failures.explain(log)
    assert failure.code == "criu-failed"
    assert "something new" in failure.detail
    assert "io_uring" not in failure.detail


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("criu: unrecognized option '--nonsense'", "configuration file of the node: unrecognized option '--nonsense'"),
        ("Error (criu/config.c:183): Unsupported configuration file format", "configuration file of the node"),
        ("nothing that helps", "CRIU crashed: it ended without an answer"),
    ],
)
def test_a_criu_that_ends_while_it_reads_the_nodes_configuration_has_not_crashed(
    tmp_path: Path, said: str, cause: str
) -> None:
    tool = tmp_path / "criu"
    tool.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    tool.chmod(0o755)
    failure = criu.explain(None, "CRIU version check failed: read criu-xprt-cln: connection reset by peer", tool)
    assert failure.cause.endswith(cause)
    assert failure.code == ("criu-crashed" if "crashed" in cause else "criu-config")


def test_what_runc_wrote_counts_where_criu_wrote_no_log(tmp_path: Path) -> None:
    failure = criu.explain(tmp_path / "no.log", 'criu failed: type NOTIFY errno 56\nlog file: "x"\n')
    assert failure.code == "criu-config"
    assert "errno 56" in failure.detail


def test_only_the_end_of_a_huge_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_bytes(b"(00.1) fine\n" * 1_000_000 + b"(09.9) Error (criu/a.c:1): No space left on device\n")
    assert criu.explain(log, "").code == "disk-full"


def test_bytes_that_are_no_text_are_survived(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_bytes(b"\xff\xfe Error (x): \x80 No space left on device\n")
    assert criu.explain(log, "").code == "disk-full"


def test_every_code_stands_for_one_row_with_a_sentence_of_advice() -> None:
    codes = [rule.code for rule in criu_complaints.RULES]
    assert len(codes) == len(set(codes))
    assert all(rule.advice.endswith(".") and not rule.cause.endswith(".") for rule in criu_complaints.RULES)
    assert all(criu_failures.rule(code).code == code for code in codes)


def test_the_page_of_failures_ends_with_the_table() -> None:
    assert PAGE.read_text().endswith(f"\n{failure_page.render()}"), (
        "put the output of python -m nodeworker.domain.failure_page at the end of docs/reference/failures.md"
    )


def test_a_criu_that_a_busy_machine_lets_wait_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "criu"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(criu, "_CHECK_SECONDS", 0.1)
    with pytest.raises(FailureError) as problem:
        criu.check(slow)
    assert problem.value.failure.code == "self-test-timeout"
    assert problem.value.failure.cause == f"`{slow} check` did not end within 0.1 s"


def test_a_log_without_an_error_says_that_criu_had_nothing_to_complain_of(tmp_path: Path) -> None:
    log = tmp_path / "restore.log"
    assert not criu.has_complained(log)
    log.write_text(
        "(00.1) Warn  (criu/x.c:1): well\n(00.2) Error (criu/cgroup.c:1998): cg: cgroupd: recv req error: x\n"
    )
    assert not criu.has_complained(log)
    log.write_text("(00.1) Error (criu/x.c:1): no\n")
    assert criu.has_complained(log)
