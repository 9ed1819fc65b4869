"""What CRIU's complaints mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.capture import criu
from nodeworker.domain import criu_failures, failure_page

pytestmark = pytest.mark.timeout(5)

PAGE = Path(__file__).parents[2] / "docs/reference/failures.md"

COMPLAINTS = {
    "Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (unknown anon_inode:[io_uring])": "io-uring",
    "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.": "tcp-connection",
    "Error (criu/sk-inet.c:188): inet: In-flight connection (l) for 6f": "in-flight-connection",
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
    "Error (criu/plugin.c:1): cuda_plugin: CHECKPOINT_DEVICES failed with 1": "cuda",
    "Error (criu/image.c:1): Can't write 4096 bytes: No space left on device": "disk-full",
    "Error (criu/vdso.c:1): vdso: Unexpected rt vDSO area bounds": "kernel-too-new",
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


def test_a_warning_is_no_cause() -> None:
    log = "(00.1) Warn  (criu/x.c:1): anon_inode:[io_uring]\n(00.2) Error (criu/y.c:2): something new\n"
    failure = criu_failures.explain(log)
    assert failure.code == "criu-failed"
    assert "something new" in failure.detail
    assert "io_uring" not in failure.detail


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
    codes = [rule.code for rule in criu_failures.RULES]
    assert len(codes) == len(set(codes))
    assert all(rule.advice.endswith(".") and not rule.cause.endswith(".") for rule in criu_failures.RULES)
    assert all(criu_failures.rule(code).code == code for code in codes)


def test_the_page_of_failures_ends_with_the_table() -> None:
    assert PAGE.read_text().endswith(f"\n{failure_page.render()}"), (
        "put the output of python -m nodeworker.domain.failure_page at the end of docs/reference/failures.md"
    )
