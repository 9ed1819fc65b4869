"""Play one world, or many: ``python -m tests.simulation SEED [--count N] [--steps N] [--trace]``."""

from __future__ import annotations

import argparse
import sys

from .campaign import STEPS, play, play_many


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, help="the seed, or the first of --count seeds")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--trace", action="store_true", help="tell what happens, step by step")
    options = parser.parse_args()
    if options.count > 1:
        played = play_many(options.seed, options.count, options.steps)
        for problem in played.broken[:10]:
            print(problem.told(options.steps))
        print(
            f"{played.worlds} worlds of {options.steps} steps, {played.events} events, "
            f"{len(played.broken)} broken, {played.wall_seconds:.1f} s, {played.cpu_seconds:.1f} s of CPU"
        )
        return 1 if played.broken else 0
    world, broken = play(options.seed, options.steps, trace=options.trace)
    for line in world.trace or ():
        print(line)
    print(
        broken.told(options.steps) if broken else f"seed {options.seed}: all laws held, {len(world.log.records)} events"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
