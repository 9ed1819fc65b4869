"""``make chaos``: a run for CHAOS_SECONDS from CHAOS_SEED, with a report and the log in build/chaos.

CHAOS_PLACE says where: ``machine``, this one, or ``cluster``, the one that KUBECONFIG and WOODFROG_E2E_CLUSTER name. Exit code 1 if a rule was broken. CHAOS_IDS ids take part, and CHAOS_RUNNING of them run at the same time.
Of all harms those are done whose names contain CHAOS_HARMS, such as ``disk``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .campaign import Campaign
from .on_cluster import cluster
from .place import one_machine
from .recording import write
from .report import render

_BUILD = Path(__file__).parents[2] / "build/chaos"


def main() -> int:
    """Run; return the exit code."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name) or default)

    where = os.environ.get("CHAOS_PLACE") or "machine"
    with (
        tempfile.TemporaryDirectory(prefix="wf-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        cluster() if where == "cluster" else one_machine(Path(folder)) as place,
    ):
        run = Campaign(
            place,
            seed=number("CHAOS_SEED", 1),
            seconds=number("CHAOS_SECONDS", 600),
            ids=number("CHAOS_IDS", 30),
            running=number("CHAOS_RUNNING", (8 if where == "cluster" else 2) * (os.cpu_count() or 1)),
            lanes=number("CHAOS_LANES", 6 if where == "cluster" else 1),
            only=os.environ.get("CHAOS_HARMS") or "",
        )
        run.run()
    _BUILD.mkdir(parents=True, exist_ok=True)
    report = _BUILD / f"{where}-seed-{run.seed}.html"
    report.write_text(render(run))
    write(report.with_suffix(".jsonl"), run.log)
    for rule, count in run.counts.items():
        print(f'woodfrog_invariant_violations_total{{rule="{rule}"}} {count}')
    for each in run.violations:
        print(f"{each.rule}: {each.key}: {each.about}")
    for kind in run.failed:
        print(f"{kind.what}: {kind.example.code} {kind.times}")
    print(f"seed {run.seed}: {len(run.acts)} acts, {len(run.log)} events, {run.took:.0f} s; {report}")
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
