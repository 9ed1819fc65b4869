"""Disks of a cluster's nodes that a run may fill: small ones of their own, because a node's may be everybody's.

The adapter puts them under Woodfrog's folders before it is installed and takes them away at the end (``disk``, ``undisk``). Whoever fills
one goes on filling it: what the worker lets go to make room is gone at once, too.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from support.kube import Cluster, CommandFailedError

WORKER: Final = "/var/lib/woodfrog"
"""Where a worker has its journal, its captures and what it fetches (``nodeworker/host/paths.py``)."""
_WORKER_SIZE: Final = "1G"
_STORE_SIZE: Final = "3G"
_LEFT_KIB: Final = 64
_LONGEST_SECONDS: Final = 120
_FILL: Final = f"""
cd "$0" && exec 3>ballast || exit 1
turn=0
while [ -e ballast ] && [ $turn -lt {_LONGEST_SECONDS * 5} ]; do
    free=$(($(stat --file-system --format '%a * %S / 1024' .) - {_LEFT_KIB}))
    [ $free -le 0 ] || fallocate --offset "$(stat --dereference --format %s /proc/self/fd/3)" --length "${{free}}KiB" /proc/self/fd/3
    turn=$((turn + 1))
    sleep 0.2
done
rm -f ballast
"""


@contextmanager
def small_disks(cluster: Cluster, store: str) -> Iterator[bool]:
    """Small disks for the workers and for the store, if that is a folder; yields whether the adapter has them."""
    with ExitStack() as undo:
        for folder, size in {WORKER: _WORKER_SIZE, **({store: _STORE_SIZE} if store else {})}.items():
            try:
                cluster.adapt("disk", folder, size)
            except CommandFailedError as problem:
                if "usage" not in str(problem):
                    raise
                yield False
                return
            undo.callback(cluster.adapt, "undisk", folder)
        yield True


def fill(cluster: Cluster, node: str, folder: str) -> Callable[[], None]:
    """Fill the disk of a folder on a node, and keep it full until what is returned is called."""
    filling = subprocess.Popen(
        [cluster.adapter, "run", node, "bash", "-c", _FILL, folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)

    def end() -> None:
        cluster.on(node, "rm", "-f", f"{folder}/ballast", check=False)
        with suppress(subprocess.TimeoutExpired):
            filling.wait(10)

    return end
