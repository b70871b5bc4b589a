"""The figures of docs/engine.md that are no comparison of speed: ``python benchmarks/engine_facts.py --json FILE``.

Time to build the kernels and to load them again, errors of GELU and its derivative, what ``fuse()`` saves. On a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from convmixer.bench import timing
from convmixer.files import write_atomic
from convmixer.kernels import dispatch
from convmixer.kernels.backend import ActNorm, Maps
from convmixer.models import create_model
from convmixer.runtime.device import autocast, device_name

CPU = torch.device("cpu")
LOAD = "import time, torch; from convmixer.kernels import native; t = time.perf_counter(); native.library();"
LOAD += " print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Fact:
    """One figure."""

    name: str
    value: float
    unit: str
    device_name: str
    torch: str


def seconds_to_load(rounds: int) -> tuple[float, float]:
    """Until the kernels are there, in a new process: with an empty cache, and (median) with what that has left."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "CONVMIXER_CACHE": cache}
        taken = []
        for _ in range(1 + rounds):
            command = [sys.executable, "-c", LOAD]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            taken.append(float(done.stdout))
    return taken[0], statistics.median(taken[1:])


def gelu_errors(points: int) -> tuple[float, float]:
    """Largest absolute errors of GELU and of its derivative in float32 between -10 and 10, to PyTorch's in float64.

    Both are computed by the fused operations, with the identity as normalisation.
    """
    u = torch.linspace(-10.0, 10.0, points).repeat(2, 1)
    zero, one = torch.zeros(2), torch.ones(2)
    norm, maps = ActNorm(zero, one, zero, eps=0.0), Maps((1, 1, points), "gelu", None)
    with dispatch.record() as ran:
        y, used = dispatch.act_norm(u, norm, torch.stack((zero, one)), None, maps)
        du, _ = dispatch.act_norm_backward(torch.ones_like(u), u, norm, used, False, maps)
    if {how for _, how in ran} != {"native"}:
        sys.exit("The native kernels are not available here, so there is nothing to measure.")
    exact = u.double().requires_grad_()
    expected = torch.nn.functional.gelu(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    expected = expected.detach()
    return (y - expected).abs().max().item(), (du - slope).abs().max().item()


def fuse_gain(model_name: str, precision: torch.dtype, rounds: int) -> float:
    """Seconds for one image on one thread without ``fuse()`` over seconds with it: the median of ``rounds`` turns."""
    torch.set_num_threads(1)
    model = create_model(model_name, engine="fast").eval()
    image = torch.randn(1, 3, 32, 32)

    def infer() -> None:
        with torch.inference_mode(), autocast(CPU, precision):
            model(image)

    ratios = []
    steps = timing.warm_up(infer, CPU)
    for _ in range(rounds):
        plain = timing.seconds_of(infer, steps, CPU)
        model.fuse()
        infer()
        fused = timing.seconds_of(infer, steps, CPU)
        model.unfuse()
        ratios.append(plain / fused)
    return statistics.median(ratios)


def measure(model: str, rounds: int, points: int) -> list[Fact]:
    """All figures."""
    built, loaded = seconds_to_load(rounds)
    value, slope = gelu_errors(points)
    figures = [
        ("first use: kernels built", built, "s"),
        ("later: kernels loaded", loaded, "s"),
        ("GELU, largest error", value, ""),
        ("derivative of GELU, largest error", slope, ""),
        ("one image, one thread, without fuse() ÷ with it, float32", fuse_gain(model, torch.float32, rounds), "×"),
        ("one image, one thread, without fuse() ÷ with it, bfloat16", fuse_gain(model, torch.bfloat16, rounds), "×"),
    ]
    return [Fact(*figure, device_name(CPU), torch.__version__) for figure in figures]


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the records to")
    parser.add_argument("--model", default="convmixer_256_8_k9")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--points", type=int, default=2_000_001)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    facts = measure(args.model, args.rounds, args.points)
    for fact in facts:
        print(f"{fact.name}: {fact.value:.3g} {fact.unit}".rstrip())
    if args.json is not None:
        write_atomic(args.json, json.dumps([dataclasses.asdict(fact) for fact in facts], indent=1) + "\n")


if __name__ == "__main__":
    main()
