"""What Woodfrog's runtime costs a container that does not carry the variable: each verb beside bare runc, alternately.

Run: ``python tests/bench/bench_wrapper.py [RUNS]``. One container a turn is created, started, asked for its state, killed and
deleted; ours and runc's take turns, so that a drift of the machine's speed hits both. runc's ``create`` varies by tens of
milliseconds from run to run, so ``create`` is also measured with ``true`` in the place of runc, where little else is left.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nodeworker.host.criu_bundle import find_criu
from nodeworker.runtime.install import write_runtime
from tests.bench.report import Row, overhead, publish
from tests.bench.stopwatch import run_timed, undo_when_ended
from tests.support.images import busybox_root

VERBS = ("create", "start", "state", "kill", "delete")


def bundle(folder: Path) -> Path:
    """Make a bundle with a busybox that sleeps."""
    busybox_root(folder / "rootfs")
    subprocess.run(["runc", "spec", "--bundle", folder], check=True, timeout=10)
    config = json.loads((folder / "config.json").read_text())
    config["process"].update(terminal=False, args=["sleep", "1000"], rlimits=[])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def cycle(runtime: str | Path, root: Path, folder: Path, name: str) -> dict[str, float]:
    """Take one container through its life; return the milliseconds of each verb."""
    took = {}
    for verb in VERBS:
        options: list[str | Path] = []
        if verb == "create":
            options = ["--bundle", folder]
        words = [runtime, "--root", root, verb, *options, name, *(["KILL"] if verb == "kill" else [])]
        took[verb] = run_timed(words) * 1000
        if verb == "kill":
            while (
                '"stopped"'
                not in subprocess.run(
                    ["runc", "--root", root, "state", name], check=True, capture_output=True, text=True, timeout=30
                ).stdout
            ):
                time.sleep(0.01)
    return took


def remove(root: Path, name: str) -> None:
    """Remove what a cycle that failed left; nothing if it did not."""
    subprocess.run(["runc", "--root", root, "delete", "--force", name], check=True, capture_output=True, timeout=30)


def alone(scratch: Path, folder: Path, runs: int) -> Row:
    """Measure ``create`` of a wrapper around a program that does nothing."""
    nothing = Path("/bin/true")
    wrapper = write_runtime(
        scratch / "wrapper", run_dir=scratch / "run", runc=nothing, criu=find_criu(), python=Path(sys.executable)
    )
    words = ("create", "--bundle", folder, "nobody")
    pairs = [(run_timed([wrapper, *words]) * 1000, run_timed([nothing, *words]) * 1000) for _ in range(runs)]
    ours, peer = zip(*pairs, strict=True)
    return overhead("create with `true` as runc", "ms", ours, peer, peer_name="true", goal="<= 5")


def main() -> None:
    """Measure and publish."""
    undo_when_ended()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    runc = shutil.which("runc")
    assert runc is not None
    series: dict[str, dict[str, list[float]]] = {"ours": defaultdict(list), "runc": defaultdict(list)}
    with tempfile.TemporaryDirectory(prefix="bench-wrapper-", dir="/var/tmp") as folder:
        scratch = Path(folder)
        ours = write_runtime(
            scratch / "runtime", run_dir=scratch / "run", runc=Path(runc), criu=find_criu(), python=Path(sys.executable)
        )
        made = bundle(scratch / "bundle")
        sides: list[tuple[str, str | Path]] = [("ours", ours), ("runc", runc)]
        for turn in range(runs + 1):
            for who, runtime in sides:
                name = f"wf-bench-{who}-{turn}"
                with ExitStack() as undo:
                    undo.callback(remove, scratch / "state", name)
                    took = cycle(runtime, scratch / "state", made, name)
                if turn:  # the first turn warms the page cache
                    for verb, milliseconds in took.items():
                        series[who][verb].append(milliseconds)
            sides.reverse()
        bare = alone(scratch, made, 2 * runs)
    publish(
        "wrapper",
        [
            overhead(verb, "ms", series["ours"][verb], series["runc"][verb], peer_name="runc", goal="<= 5")
            for verb in VERBS
        ]
        + [bare],
    )


if __name__ == "__main__":
    main()
