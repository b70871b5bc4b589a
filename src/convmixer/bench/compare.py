"""Running competitors in turns, and what comes out of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from convmixer.bench.settings import REFERENCE, SETTINGS, BenchConfig
from convmixer.bench.worker import Job, step_of, to_json
from convmixer.kernels import dispatch
from convmixer.models import count_multiply_adds
from convmixer.presets import model_preset


@dataclass(frozen=True)
class Record:
    """One competitor's result for one model, batch size and kind of work."""

    what: str
    model: str
    kernel_size: int
    batch_size: int
    engine: str
    setting: str
    images_per_second: float
    """From the median of the rounds."""
    ratio_to_plain: float
    """Median of the ratios of each round."""
    peak_bytes: int
    """Rise of the process's memory from before the model was built to its peak; what importing takes is not in it."""
    slowest: float
    fastest: float
    """Images per second in the slowest and in the fastest round."""
    flops_per_second: float
    """2 · multiply-adds of convolutions and linear layers, three times that for training, by the median time."""
    gemm_flops_per_second: float
    """What one large matrix product reaches on this machine in the setting's precision."""


def bench(config: BenchConfig, progress: Callable[[str], object] = lambda _: None) -> list[Record]:
    """Measures every combination in ``config``.

    Args:
        config: what to measure.
        progress: is told what is measured next.
    """
    threads = config.threads or torch.get_num_threads()
    peaks = {bf16: gemm_flops_per_second(bf16, threads) for bf16 in (False, True)}
    records: list[Record] = []
    for model in config.models:
        for what in config.what:
            for batch_size in config.batch_sizes:
                progress(f"{what} {model}, batch {batch_size}")
                names = list(dict.fromkeys([REFERENCE, *config.settings]))
                jobs = [Job(what, model, batch_size, config.image_size, threads, SETTINGS[name]) for name in names]
                measured = interleave(jobs, config.rounds)
                records += _records(dict(zip(names, jobs, strict=True)), measured, peaks)
    return records


class _Worker:
    """A competitor's process; ``skipped`` says why there is none."""

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "convmixer.bench.worker", to_json(job)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.skipped = ""

    def wait_until_warm(self) -> None:
        self.skipped = str(self._read().get("skip", ""))

    def measure(self) -> tuple[float, int]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._read()
        return float(answer["seconds"]), int(answer["peak_bytes"])

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark process ended with status {self.process.wait()}; see its messages above")
        content: dict[str, float] = json.loads(line)
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        self.process.communicate()  # closes its input, upon which it ends


def interleave(jobs: Sequence[Job], rounds: int) -> list[list[tuple[float, int]]]:
    """(seconds, peak bytes) of each job in each round; empty for a job that does not exist on this machine.

    All processes live through all rounds, one runs at a time: what slows the machine down slows all of them.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:
        workers = []
        for job in jobs:
            workers.append(stack.enter_context(_Worker(job)))
            workers[-1].wait_until_warm()  # before the next one starts
        results: list[list[tuple[float, int]]] = [[] for _ in jobs]
        for _ in range(rounds):
            for worker, result in zip(workers, results, strict=True):
                if not worker.skipped:
                    result.append(worker.measure())
    return results


def _records(
    jobs: dict[str, Job], measured: Sequence[Sequence[tuple[float, int]]], peaks: dict[bool, float]
) -> list[Record]:
    plain = [seconds for seconds, _ in measured[list(jobs).index(REFERENCE)]]
    records = []
    for (name, job), rounds in zip(jobs.items(), measured, strict=True):
        if not rounds:
            continue
        preset = model_preset(job.model)
        seconds = [time for time, _ in rounds]
        median = statistics.median(seconds)
        work = 2.0 * job.batch_size * count_multiply_adds(preset.architecture, job.image_size, preset.n_classes)
        records.append(
            Record(
                what=job.what,
                model=job.model,
                kernel_size=preset.architecture.kernel_size,
                batch_size=job.batch_size,
                engine=job.setting.engine,
                setting=name,
                images_per_second=job.batch_size / median,
                ratio_to_plain=statistics.median(p / s for p, s in zip(plain, seconds, strict=True)),
                peak_bytes=max(peak for _, peak in rounds),
                slowest=job.batch_size / max(seconds),
                fastest=job.batch_size / min(seconds),
                flops_per_second=work * (3 if job.what == "train" else 1) / median,
                gemm_flops_per_second=peaks[job.setting.bf16],
            )
        )
    return records


def gemm_flops_per_second(bf16: bool, threads: int, size: int = 1536, rounds: int = 5) -> float:
    """The best rate of a product of two square matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(2, size, size).to(torch.bfloat16 if bf16 else torch.float32)
        best = float("inf")
        for _ in range(rounds):
            begin = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - begin)
    finally:
        torch.set_num_threads(before)
    return 2.0 * size**3 / best


def explain(config: BenchConfig) -> list[tuple[str, str, str, str, int]]:
    """How the fast engine runs: (what, model, operation, implementation, calls in one step), for each model.

    "native" is the compiled kernel, "reference" the same in PyTorch, "plain" a module that was not recognised.
    """
    rows: list[tuple[str, str, str, str, int]] = []
    for model in config.models:
        for what in config.what:
            job = Job(what, model, 2, config.image_size, torch.get_num_threads(), SETTINGS["fast"])
            with dispatch.record() as ran:
                step_of(job)()
            rows += [(what, model, operation, how, count) for (operation, how), count in sorted(ran.items())]
    return rows


def format_table(records: Sequence[Record]) -> str:
    """A table for people, fastest first within each group."""
    lines = []
    for key in dict.fromkeys((r.what, r.model, r.batch_size) for r in records):
        group = [r for r in records if (r.what, r.model, r.batch_size) == key]
        lines.append(f"{key[0]} {key[1]}, batch {key[2]}")
        lines.append(f"  {'setting':24} {'img/s':>8} {'(range)':>17} {'÷ plain':>8} {'GEMM peak':>9} {'memory':>9}")
        for r in sorted(group, key=lambda r: -r.images_per_second):
            spread = f"({r.slowest:.1f}-{r.fastest:.1f})"
            share = r.flops_per_second / r.gemm_flops_per_second
            lines.append(
                f"  {r.setting:24} {r.images_per_second:8.1f} {spread:>17} {r.ratio_to_plain:8.2f} {share:9.0%}"
                f" {r.peak_bytes / 2**20:5.0f} MiB"
            )
    return "\n".join(lines)


def write_json(records: Sequence[Record], path: Path) -> None:
    """A list of the records as objects."""
    path.write_text(json.dumps([dataclasses.asdict(record) for record in records], indent=1) + "\n")
