"""Whether a fused model is faster in one native call than operation by operation: ``python benchmarks/plan_sweep.py``.

For every size (channels, maps, kernels, images at once) both are measured in turns; sizes that take too long are left
out and counted. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from convmixer.bench import timing
from convmixer.config import ModelConfig
from convmixer.files import write_atomic
from convmixer.models import build_model, count_multiply_adds

DIMS = (32, 64, 128, 256, 512)
MAPS = (4, 7, 8, 14, 16, 28, 56)
KERNELS = (3, 5, 9, 15)
BATCHES = (1, 16, 128, 512)
DEPTH, PATCH = 2, 2
CPU = torch.device("cpu")
LARGEST = 8e9  # multiply-adds of a step
ROUNDS, SECONDS = 3, 0.05


@dataclass(frozen=True)
class Row:
    """Both at one size."""

    dim: int
    maps: int
    kernel_size: int
    batch_size: int
    milliseconds: float
    """Of the native call."""
    ratio: float
    """Median of the rounds' ratios of the operations' time to it."""


def measured(dim: int, side: int, kernel: int, batch: int) -> Row | None:
    """None where a step takes too long."""
    config = ModelConfig(dim=dim, depth=DEPTH, kernel_size=kernel, patch_size=PATCH)
    if batch * count_multiply_adds(config, side * PATCH, 10) > LARGEST:
        return None
    model = build_model(config, 10, 3, "fast").eval().fuse()
    other = copy.deepcopy(model)
    other._executor.planned = None
    images = torch.randn(batch, 3, side * PATCH, side * PATCH)
    steps = [partial(one, images) for one in (model, other)]
    with torch.inference_mode():
        repeats = [timing.warm_up(step, CPU, SECONDS) for step in steps]
        taken = [
            [statistics.median(timing.seconds_of_each(*turn, CPU)) for turn in zip(steps, repeats, strict=True)]
            for _ in range(ROUNDS)
        ]
    ratio = statistics.median(theirs / ours for ours, theirs in taken)
    return Row(dim, side, kernel, batch, round(1e3 * statistics.median(ours for ours, _ in taken), 3), round(ratio, 2))


def main() -> None:
    """Prints a line for each network, and at the end where the native call is slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="*", default=DIMS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, skipped = list[Row](), 0
    for dim, side, kernel in itertools.product(args.dims, MAPS, KERNELS):
        found = [measured(dim, side, kernel, batch) for batch in BATCHES]
        skipped += found.count(None)
        rows += [row for row in found if row]
        ratios = "  ".join("-" if row is None else f"{row.ratio:.2f}" for row in found)
        print(f"dim {dim}, maps {side}, k{kernel}, batches {BATCHES}: {ratios}", flush=True)
    slower = [row for row in rows if row.ratio < 1]
    machine = timing.this_machine(CPU, torch.get_num_threads())
    print(f"{len(rows)} sizes, {skipped} left out, {len(slower)} slower in one call")
    for row in slower:
        print(row)
    if args.out:
        content = {"machine": asdict(machine), "depth": DEPTH, "patch_size": PATCH, "left_out": skipped}
        write_atomic(args.out, json.dumps(content | {"rows": [asdict(row) for row in rows]}) + "\n")


if __name__ == "__main__":
    main()
