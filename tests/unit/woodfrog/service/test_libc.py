"""The C library's errors are Python's."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from woodfrog.service import libc

pytestmark = pytest.mark.timeout(5)


def test_a_refusal_is_an_error_with_its_number_and_what_it_is_about(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing") as caught:
        libc.unmount(tmp_path / "missing")
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}


def test_a_file_that_is_no_namespace_cannot_be_entered(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(OSError, match="plain") as caught:
        libc.enter(tmp_path / "plain", libc.CLONE_NEWUTS)
    assert caught.value.errno == errno.EINVAL


def test_what_a_call_returns_is_given_back() -> None:
    assert libc.call("getppid") > 0
