"""Code in shared memory below a program is found; elsewhere, or private, it hinders nobody."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from nodeworker.capture.executable_memory import refuse_shared
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(20)

PROGRAM = textwrap.dedent("""
    import ctypes, sys
    address, protection, kind = (int(each, 0) for each in sys.argv[1:])
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    assert libc.mmap(address or None, 4096, protection, kind, -1, 0) not in (None, 2**64 - 1)
    print("ready", flush=True)
    sys.stdin.read()
""")
LOW, ANYWHERE = "0x100000", "0"
READ_EXECUTE, ALL = "5", "7"
SHARED, PRIVATE, FIXED = 0x21, 0x22, 0x10


def complaint(address: str, protection: str, kind: int) -> str:
    command = [sys.executable, "-S", "-c", PROGRAM, address, protection, str(kind)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            refuse_shared([process.pid])
        except FailureError as problem:
            return str(problem.failure)
        finally:
            process.communicate()
    return ""


def test_shared_code_below_the_program_is_refused_by_name() -> None:
    said = complaint(LOW, READ_EXECUTE, SHARED | FIXED)
    assert "executes code in memory that it shares" in said
    assert "(code-shared)" in said


@pytest.mark.parametrize(
    ("address", "protection", "kind"),
    [(ANYWHERE, READ_EXECUTE, SHARED), (LOW, ALL, SHARED | FIXED), (LOW, READ_EXECUTE, PRIVATE | FIXED)],
    ids=["above the program", "writable", "private"],
)
def test_other_code_is_not(address: str, protection: str, kind: int) -> None:
    assert not complaint(address, protection, kind)


def test_a_process_that_has_ended_is_passed_over() -> None:
    refuse_shared([0x7FFFFFFF])
