"""``python -m tests.torture``: all areas within TORTURE_MINUTES, or one area, or one trial."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.torture.areas import all_areas
from tests.torture.record import ROOT, environment, markdown, write
from tests.torture.run import run_area, run_one
from tests.torture.sandbox import prepare_process, scratch


def main() -> int:
    """Runs it; returns 1 if anything failed."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    prepare_process()
    areas = all_areas()
    chosen = arguments.area or list(areas)
    if arguments.only is not None:
        return _repeat(chosen[0], arguments.seed, arguments.only)
    about, tallies = environment(arguments.seed, arguments.minutes), []
    share = {name: 0.0 if getattr(areas[name](), "missing", "") else areas[name].share for name in chosen}
    left = 60.0 * arguments.minutes
    for name in chosen:
        seconds = left * share[name] / (sum(share.values()) or 1.0)
        with scratch(name) as folder:
            tally = run_area(areas[name](), arguments.seed, seconds, folder, arguments.most)
        tallies.append(tally)
        left -= tally.seconds
        share[name] = 0.0
        write(arguments.out, about, tallies)  # what is done so far, should this one be ended
        sys.stderr.write(f"{name}: {tally.tried:,} tried, {len(tally.failures)} failed, {tally.seconds:.0f} s\n")
    sys.stdout.write(markdown(about, tallies))
    return int(any(tally.failures for tally in tallies))


def _repeat(area: str, seed: int, index: int) -> int:
    with scratch("repeat") as folder:
        result = run_one(all_areas()[area](), seed, index, folder)
    if result is None:
        sys.stdout.write("There is no such trial.\n")
        return 2
    sys.stdout.write(f"{result.what}: {result.tried} tried\n")
    for what, judgement in result.judgements:
        sys.stdout.write(f"{judgement.verdict}: {what}\n  {judgement.detail}\n")
    return int(any(not judgement.survived for _, judgement in result.judgements))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("TORTURE_MINUTES") or 15))
    parser.add_argument("--area", choices=list(all_areas()), action="append", help="only this one; several times")
    parser.add_argument("--most", type=int, help="trials of an area at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="INDEX", help="repeat this trial of --area")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reliability")
    return parser


if __name__ == "__main__":
    sys.exit(main())
