"""How the engines' speed changes with one size at a time: batch, depth, dimension, image and kernel; finds cliffs.

All engines run in this process, with the tuned allocator, in turns: "plain" here is what the plain engine does at its
best, not the authors' script.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from convmixer.bench import roofline, timing
from convmixer.bench.compare import chosen_kind
from convmixer.bench.settings import BenchConfig, Storage
from convmixer.bench.step import Job, build, step_of
from convmixer.bench.timing import Machine, this_machine
from convmixer.config import ModelConfig, PerBlock
from convmixer.models import ConvMixer
from convmixer.runtime.allocator import prepared_cpu
from convmixer.runtime.device import autocast

_SMALL = ModelConfig(dim=64, depth=2, kernel_size=5, patch_size=2)
_SECONDS = 0.05  # of a measurement, at least
_SLOWER = 0.95  # of plain: what measuring again can give


@dataclass(frozen=True)
class Axis:
    """A small network, and the sizes that one of its dimensions takes."""

    values: tuple[int, ...]
    batch_size: int = 32
    image_size: int = 32
    architecture: ModelConfig = _SMALL

    def job(self, name: str, value: int) -> Job:
        """The plain training step with the size called ``name`` being ``value``; its other fields can be replaced."""
        sizes: dict[str, Any] = {name: value} if name in ("dim", "depth", "kernel_size") else {}
        batch = value if name == "batch_size" else self.batch_size
        image = value if name == "image_size" else self.image_size
        network = replace(self.architecture, **sizes)
        return Job("train", f"{name}={value}", network, 10, batch, image, "plain", "cpu", 1)


AXES: Mapping[str, Axis] = {
    "batch_size": Axis((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)),
    "depth": Axis((1, 2, 4, 8, 16)),
    "dim": Axis((3, 16, 32, 64, 100, 128, 256, 512)),
    "image_size": Axis((8, 16, 20, 32, 64, 96, 128, 224), batch_size=4),
    "kernel_size": Axis((3, 5, 7, 9, 11, 13, 15)),
}

ENGINES: Mapping[Storage, tuple[str, str, str]] = {
    "float32": ("plain+allocator", "fast", "auto"),
    "bfloat16": ("bf16", "fast+bf16", "auto+bf16"),
}
"""By precision the settings of the engines plain, fast and auto."""


@dataclass(frozen=True)
class SweepRecord:
    """The engines at one size."""

    axis: str
    value: int
    what: str
    precision: str
    dim: int
    depth: int
    kernel_size: PerBlock
    patch_size: int
    batch_size: int
    image_size: int
    plain_images_per_second: float
    fast_images_per_second: float
    auto_images_per_second: float
    """From the medians of the rounds."""
    fast_ratio: float
    auto_ratio: float
    """To plain: medians of the ratios of each round."""
    auto_runs_as: str
    """plain or fast."""
    fast_flops_per_second: float
    """As in :class:`convmixer.bench.compare.Record`."""
    machine: Machine


def sweep(
    config: BenchConfig,
    names: Sequence[str] = tuple(AXES),
    axes: Mapping[str, Axis] = AXES,
    progress: Callable[[str], object] = lambda _: None,
) -> list[SweepRecord]:
    """Measures every size of the axes called ``names``.

    Args:
        config: what, device, rounds and threads are taken from it.
        names: keys of ``axes``.
        axes: networks and sizes.
        progress: is told what is measured next.
    """
    kind = chosen_kind(config)
    threads = config.threads or torch.get_num_threads()
    before, records = torch.get_num_threads(), []
    with prepared_cpu():
        timing.prepare(threads, tuned=True, device=torch.device(kind))
        for name in names:
            progress(f"{name}: {', '.join(map(str, axes[name].values))}")
            for value in axes[name].values:
                for what in config.work:
                    for precision in ENGINES:
                        job = replace(axes[name].job(name, value), what=what, device=kind, threads=threads)
                        records.append(_measured(job, name, value, precision, config.rounds))
        torch.set_num_threads(before)
    return records


def _measured(job: Job, axis: str, value: int, precision: Storage, rounds: int) -> SweepRecord:
    device, sizes = torch.device(job.device), job.architecture
    jobs = [replace(job, setting=setting) for setting in ENGINES[precision]]
    models = [build(one) for one in jobs]
    steps = [step_of(one, model) for one, model in zip(jobs, models, strict=True)]
    repeats = [timing.warm_up(step, device, _SECONDS) for step in steps]
    taken = [[0.0] * len(steps) for _ in range(rounds)]
    for turn, seconds in enumerate(taken):
        order = range(len(steps)) if turn % 2 == 0 else reversed(range(len(steps)))
        for i in order:  # there and back: what runs after its like finds its memory in the cache
            steps[i]()
            seconds[i] = timing.seconds_of(steps[i], repeats[i], device)
    plain, fast, auto = (job.batch_size / statistics.median(column) for column in zip(*taken, strict=True))
    return SweepRecord(
        axis=axis,
        value=value,
        what=job.what,
        precision=precision,
        dim=sizes.dim,
        depth=sizes.depth,
        kernel_size=sizes.kernel_size,
        patch_size=sizes.patch_size,
        batch_size=job.batch_size,
        image_size=job.image_size,
        plain_images_per_second=plain,
        fast_images_per_second=fast,
        auto_images_per_second=auto,
        fast_ratio=statistics.median(p / f for p, f, _ in taken),
        auto_ratio=statistics.median(p / a for p, _, a in taken),
        auto_runs_as=_runs_as(models[-1], jobs[-1]),
        fast_flops_per_second=roofline.flops(job) / job.batch_size * fast,
        machine=this_machine(device, job.threads),
    )


def _runs_as(model: torch.nn.Module, job: Job) -> str:
    assert isinstance(model, ConvMixer)
    device = torch.device(job.device)
    images = torch.zeros(job.batch_size, 3, job.image_size, job.image_size, device=device)
    precision = autocast(device, getattr(torch, job.how.precision))
    with torch.inference_mode(job.what == "infer"), precision:
        return model.engine_for(images)


def format_sweep(records: Sequence[SweepRecord]) -> str:
    """A table for people, and at its end the sizes at which auto is slower than plain."""
    lines = []
    for key in dict.fromkeys((r.axis, r.what, r.precision) for r in records):
        group = [r for r in records if (r.axis, r.what, r.precision) == key]
        axis, what, precision = key
        others = ", ".join(f"{name} {getattr(group[0], name)}" for name in AXES if name != axis)
        lines.append(f"{what}, {precision}, {axis} grows ({others})")
        heads = f"{'plain img/s':>12} {'fast ÷ plain':>13} {'auto ÷ plain':>13} {'fast GFLOP/s':>13}"
        lines.append(f"  {axis:>11} {heads}  auto is")
        lines += [
            f"  {r.value:11} {r.plain_images_per_second:12.1f} {r.fast_ratio:13.2f} {r.auto_ratio:13.2f}"
            f" {r.fast_flops_per_second / 1e9:13.1f}  {r.auto_runs_as}"
            for r in group
        ]
    slower = [r for r in records if r.auto_ratio < _SLOWER]
    named = ", ".join(
        f"{r.what} {r.precision} {r.axis} {r.value} ({r.auto_ratio:.2f}, is {r.auto_runs_as})" for r in slower
    )
    lines.append(f"auto below {_SLOWER} of plain: {named or 'at no size'}")
    return "\n".join(lines)
