"""Run programs of the matrix: ``python -m matrix`` in ``tests``, all of them or those that are named.

Results go into docs/reference/compatibility.json and its page. Exit code 1 if a program did not work by itself, or does not continue and has no entry that says why.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from matrix import page, roots, runner
from matrix.entries import ENTRIES
from matrix.nodes import two_nodes
from matrix.programs import PROGRAMS

from woodfrog.service import logs

AT_ONCE = 3
"""Programs that run beside each other: each waits most of the time."""


def main(names: list[str]) -> int:
    """Run them; one that fails keeps no other from being run."""
    chosen = [program for program in PROGRAMS if not names or program.name in names]
    unknown = set(names) - {program.name for program in chosen}
    if unknown:
        sys.stderr.write(f"no such program: {', '.join(sorted(unknown))}\n")
        return 2
    logs.configure("error")
    lowers = roots.prepared(chosen)
    folder = Path(tempfile.mkdtemp(prefix="wf-", dir="/var/tmp"))
    wrong = False
    try:
        with two_nodes(folder) as nodes, ThreadPoolExecutor(AT_ONCE) as pool:
            running = {pool.submit(runner.live, each, nodes, lowers[each.suite]): each for each in chosen}
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
                page.keep(row)
                says = "yes" if row.out_of_the_box else f"no: {row.step}, {row.code}: {row.cause}"
                print(f"{program.name} {row.version}: {says}", flush=True)
                wrong |= not row.out_of_the_box and program.name not in ENTRIES
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
