"""Handles of the kernel that CRIU cannot dump, found among the descriptors of processes before anything is frozen.

They show as ``anon_inode:NAME`` (criu/files.c, ``dump_one_file``, which knows eventfd, epoll, inotify, fanotify, signalfd, timerfd, pidfd and
maps of BPF). Only what is known to be refused is named here: drivers have such handles, too, and let go of them before a dump.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nodeworker.errors import refusal
from woodfrog.service.procfs import descriptors, named

_PREFIX: Final = "anon_inode:"
_REFUSED: Final = {
    "[perf_event]": "a perf event",
    "[userfaultfd]": "a userfaultfd",
    "bpf-prog": "a BPF program",
    "bpf_link": "a BPF link",
    "[landlock-ruleset]": "a Landlock ruleset",
    "[fscontext]": "a file system that is not mounted yet",
    "seccomp notify": "a seccomp listener",
    "kvm-vm": "a virtual machine",
    "kvm-vcpu": "a virtual machine",
}


def refuse(pids: Iterable[int]) -> None:
    """Refuse processes that hold such a handle.

    Raises:
        FailureError: ``kernel-handle``, naming the process, the descriptor and what it is.
    """
    for pid in pids:
        for number, held in descriptors(pid).items():
            if held.startswith(_PREFIX) and (what := _named(held.removeprefix(_PREFIX))):
                raise refusal(
                    "kernel-handle",
                    f"{named(pid)} holds {what} (descriptor {number}), which CRIU cannot dump",
                    "Let the program close it before a snapshot, or run what needs it in another container.",
                )


def _named(handle: str) -> str:
    return _REFUSED.get(handle.partition(":")[0] if handle.startswith("kvm-") else handle, "")
