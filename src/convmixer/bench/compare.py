"""Running competitors in turns, and what comes out of it."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from convmixer.bench import roofline, timing
from convmixer.bench.competitors import Measurement, interleave
from convmixer.bench.settings import REFERENCE, REFERENCE_FP16, BenchConfig, Kind, Storage
from convmixer.bench.step import Job, step_of
from convmixer.bench.timing import Machine, this_machine
from convmixer.config import PerBlock
from convmixer.errors import InputError
from convmixer.kernels import dispatch
from convmixer.runtime.device import choose_device
from convmixer.utils.bench_figures import RooflinePanel, RooflinePoint
from convmixer.utils.formatting import plural

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_PROCESSES = 40  # at the same time, on a GPU
_EXPLAINED_PIXELS = 1 << 14  # of a batch: what runs as what depends little on more of them
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "CONVMIXER_NATIVE")


@dataclass(frozen=True)
class Record:
    """One competitor's result for one model, batch size and kind of work."""

    what: str
    model: str
    kernel_size: PerBlock
    batch_size: int
    engine: str
    setting: str
    images_per_second: float
    """From the median of the rounds."""
    ratio_to_plain: float
    """Median of the ratios of each round."""
    peak_bytes: int
    """On a CPU, rise of the process's memory from before the model was built to its peak; what importing takes is not
    in it. On a GPU, the most that tensors took."""
    ratio_to_plain_fp16: float | None
    """As ratio_to_plain, to what the authors' script does on a GPU; None where that was not measured."""
    slowest: float
    fastest: float
    """Images per second in the slowest and in the fastest round."""
    precision: str
    dim: int
    depth: int
    image_size: int
    machine: Machine
    flops_per_second: float
    """2 · multiply-adds of convolutions and linear layers, three times that for training, by the median time."""
    flops_per_byte: float
    """The same operations by the least memory traffic they need, see :mod:`convmixer.bench.roofline`."""
    gemm_flops_per_second: float
    """What one large matrix product reaches on this machine in the setting's precision."""
    bytes_per_second: float
    """What copying a large tensor reaches on this machine, read and written."""
    limited_by: str
    """The environment variables that keep libraries from using all of the CPU, as they were set."""
    latency_p50: float | None = None
    """Of inference on a CPU: seconds until a batch is done, the median of all steps of all rounds."""
    latency_p99: float | None = None
    """The same, which one step in a hundred exceeds."""


@dataclass(frozen=True)
class Limits:
    """What the machine itself reaches."""

    kind: Kind
    machine: Machine
    gemm_flops_per_second: dict[Storage, float]
    """By precision."""
    bytes_per_second: float

    @classmethod
    def measured(cls, config: BenchConfig) -> Limits:
        """The device that ``config`` asks for, in the precisions of its settings."""
        kind = chosen_kind(config)
        device, threads, before = torch.device(kind), config.threads or torch.get_num_threads(), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            precisions = {setting.precision for setting in config.chosen(kind).values()}
            gemm = {precision: timing.gemm_flops_per_second(precision, device) for precision in sorted(precisions)}
            copied = timing.copy_bytes_per_second(device)
        finally:
            torch.set_num_threads(before)
            timing.Memory(device).restart()
        return cls(kind, this_machine(device, threads), gemm, copied)


def chosen_kind(config: BenchConfig) -> Kind:
    """The device to measure on. Raises InputError if it is not there."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    choose_device(config.device)
    return config.device


def bench(config: BenchConfig, progress: Callable[[str], object] = lambda _: None) -> list[Record]:
    """Measures every combination in ``config``.

    Args:
        config: what to measure.
        progress: is told what is measured next, and what is left out and why.

    Raises:
        InputError: no such device, settings that do not exist there, or sizes at which plain does not run.
    """
    limits = Limits.measured(config)
    kind, threads = limits.kind, limits.machine.threads
    chosen = config.chosen(kind)
    groups = [
        [
            Job.of_preset(what, model, size, config.image_size, name, kind, threads)
            for name, setting in chosen.items()
            if setting.does(what)
        ]
        for what in config.work
        for model in config.models
        for size in config.batch_sizes
    ]
    at_once = max(1, _PROCESSES // len(chosen)) if kind == "cuda" else 1
    records: list[Record] = []
    for start in range(0, len(groups), at_once):
        some = groups[start : start + at_once]
        measured = interleave(some, config.rounds, config.time_limit, progress)
        for jobs, results in zip(some, measured, strict=True):
            records += _records(jobs, results, limits)
    return records


def _records(jobs: Sequence[Job], measured: Sequence[Sequence[Measurement]], limits: Limits) -> list[Record]:
    times = {
        job.setting: [statistics.fmean(seconds) for seconds, _ in rounds]
        for job, rounds in zip(jobs, measured, strict=True)
    }
    if not times[REFERENCE]:
        raise InputError(
            f"bench: {REFERENCE}, which ratios refer to, does not run {jobs[0].model} here with batches of "
            f"{jobs[0].batch_size} images of {jobs[0].image_size} pixels; see above, and choose smaller sizes."
        )
    records = []
    for job, rounds in zip(jobs, measured, strict=True):
        if not rounds:
            continue
        seconds, sizes = times[job.setting], job.architecture
        median = statistics.median(seconds)
        single = [*chain.from_iterable(steps for steps, _ in rounds)]
        timed = job.what == "infer" and job.device == "cpu"
        work = roofline.flops(job)
        records.append(
            Record(
                what=job.what,
                model=job.model,
                kernel_size=sizes.kernel_size,
                batch_size=job.batch_size,
                engine=job.how.engine,
                setting=job.setting,
                images_per_second=job.batch_size / median,
                ratio_to_plain=_ratio(times[REFERENCE], seconds),
                peak_bytes=max(peak for _, peak in rounds),
                ratio_to_plain_fp16=_ratio(times[REFERENCE_FP16], seconds) if times.get(REFERENCE_FP16) else None,
                slowest=job.batch_size / max(seconds),
                fastest=job.batch_size / min(seconds),
                precision=job.how.precision,
                dim=sizes.dim,
                depth=sizes.depth,
                image_size=job.image_size,
                machine=limits.machine,
                flops_per_second=work / median,
                flops_per_byte=work / roofline.least_bytes(job),
                gemm_flops_per_second=limits.gemm_flops_per_second[job.how.precision],
                bytes_per_second=limits.bytes_per_second,
                limited_by=" ".join(f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)),
                latency_p50=float(np.quantile(single, 0.5)) if timed else None,
                latency_p99=float(np.quantile(single, 0.99)) if timed else None,
            )
        )
    return records


def _ratio(reference: Sequence[float], seconds: Sequence[float]) -> float:
    """Median over rounds of the speed relative to the reference."""
    return statistics.median(r / s for r, s in zip(reference, seconds, strict=True))


def explain(config: BenchConfig) -> list[tuple[str, str, str, str, str, int]]:
    """How the fast engine runs: (what, model, setting, operation, implementation, calls in one step).

    "native" and "triton" are our kernels, "reference" the same in PyTorch, "product" and "convolution" its two ways to
    multiply, "plain" a module that was not recognised.
    """
    kind = chosen_kind(config)
    chosen = config.chosen(kind)
    images = max(2, _EXPLAINED_PIXELS // config.image_size**2)
    fast = [name for name, how in chosen.items() if how.engine == "fast" and not (how.graph or how.runtime)] or ["fast"]
    rows: list[tuple[str, str, str, str, str, int]] = []
    for model in config.models:
        for what in config.work:
            for name in fast:
                job = Job.of_preset(what, model, images, config.image_size, name, kind, torch.get_num_threads())
                with dispatch.record() as ran:
                    step_of(job)()
                rows += [(what, model, name, operation, how, count) for (operation, how), count in sorted(ran.items())]
    return rows


def format_table(records: Sequence[Record]) -> str:
    """A table for people, fastest first within each group."""
    lines = []
    for key in dict.fromkeys((r.what, r.model, r.batch_size) for r in records):
        group = [r for r in records if (r.what, r.model, r.batch_size) == key]
        fp16 = any(r.ratio_to_plain_fp16 is not None for r in group)
        limits = f", {group[0].limited_by}" if group[0].limited_by else ""
        where = f"{group[0].machine.device_name}, {plural(group[0].machine.threads, 'thread')}{limits}"
        lines.append(f"{key[0]} {key[1]}, batch {key[2]}, {where}")
        timed = group[0].latency_p50 is not None
        heads = ["setting", "img/s", "(range)", "÷ plain", *(["÷ plain+fp16"] if fp16 else [])]
        rows = [[*heads, *(["p50", "p99"] if timed else []), "GEMM peak", "memory"]]
        for r in sorted(group, key=lambda r: -r.images_per_second):
            speed = [f"{r.images_per_second:.1f}", f"({r.slowest:.1f}-{r.fastest:.1f})", f"{r.ratio_to_plain:.2f}"]
            to_fp16 = [f"{r.ratio_to_plain_fp16:.2f}"] if r.ratio_to_plain_fp16 is not None else []
            times = [f"{1e3 * t:.2f} ms" for t in (r.latency_p50, r.latency_p99) if t is not None]
            share = f"{r.flops_per_second / r.gemm_flops_per_second:.0%}"
            rows.append([r.setting, *speed, *to_fp16, *times, share, f"{r.peak_bytes / 2**20:.0f} MiB"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            right = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join(["", f"{name:<{widths[0]}}", *right]))
    return "\n".join(lines)


def to_json(records: Sequence[DataclassInstance]) -> str:
    """A list of flat objects: the machine's fields stand among those of each record."""
    rows = []
    for record in records:
        row = dataclasses.asdict(record)
        rows.append({**row, **row.pop("machine")})
    return json.dumps(rows, indent=1) + "\n"


def roofline_panels(records: Sequence[Record]) -> list[RooflinePanel]:
    """A panel for each comparison: what its competitors reach, under the roof of their machine."""
    panels = []
    for key in dict.fromkeys((r.what, r.model, r.batch_size) for r in records):
        group = [r for r in records if (r.what, r.model, r.batch_size) == key]
        what, model, batch = key
        points = (
            RooflinePoint(r.setting, r.precision, r.flops_per_byte, r.flops_per_second, r.engine != "plain")
            for r in group
        )
        peaks = {r.precision: r.gemm_flops_per_second for r in group}
        panels.append(RooflinePanel(f"{what} {model}, batch {batch}", tuple(points), peaks, group[0].bytes_per_second))
    return panels
