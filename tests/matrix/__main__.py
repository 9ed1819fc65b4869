"""Run programs of the matrix: ``python -m matrix`` in ``tests``, all of them or those that are named.

MATRIX_PLACE says where: ``machine``, this one, or ``cluster``, the one that KUBECONFIG and WOODFROG_E2E_CLUSTER name. Results go into
docs/reference/compatibility.json or compatibility-cluster.json, and their page. Exit code 1 if a program did not work by itself, or does
not continue and has no entry that says why.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from matrix import page, roots, runner
from matrix.entries import ENTRIES
from matrix.nodes import two_nodes
from matrix.on_cluster import on_cluster
from matrix.on_machine import OneMachine
from matrix.place import Place
from matrix.program import Program
from matrix.programs import PROGRAMS

from woodfrog.service import logs

AT_ONCE = 3
"""Programs that run beside each other: each waits most of the time."""


def main(names: list[str], where: str) -> int:
    """Run them; one that fails keeps no other from being run."""
    chosen = [program for program in PROGRAMS if not names or program.name in names]
    unknown = set(names) - {program.name for program in chosen}
    if unknown:
        sys.stderr.write(f"no such program: {', '.join(sorted(unknown))}\n")
        return 2
    if where not in page.FOUND:
        sys.stderr.write(f"MATRIX_PLACE is one of {', '.join(page.FOUND)}\n")
        return 2
    logs.configure("error")
    lowers = roots.prepared(chosen)
    wrong = False
    with _place(where, chosen, lowers) as place, ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(runner.live, each, place): each for each in chosen}
        began = time.monotonic()
        for done in as_completed(running):
            program = running[done]
            print(f"{time.monotonic() - began:5.0f} s  ", end="")
            try:
                row = done.result()
            except Exception:  # noqa: BLE001 -- whatever is wrong with one, the others are run
                wrong = True
                print(f"{program.name}: did not work\n{traceback.format_exc()[-3000:]}", flush=True)
                continue
            page.keep(row, page.FOUND[where])
            says = "yes" if row.out_of_the_box else f"no: {row.step}, {row.code}: {row.cause}"
            print(f"{program.name} {row.version}: {says}", flush=True)
            wrong |= not row.out_of_the_box and program.name not in ENTRIES
    return 1 if wrong else 0


@contextmanager
def _place(where: str, chosen: list[Program], lowers: dict[str, Path]) -> Iterator[Place]:
    if where == "cluster":
        with on_cluster(chosen, lowers) as place:
            yield place
        return
    with (
        tempfile.TemporaryDirectory(prefix="wf-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        two_nodes(Path(folder)) as nodes,
    ):
        yield OneMachine(nodes, lowers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("MATRIX_PLACE", "machine")))
