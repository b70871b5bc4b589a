"""Time and memory of a step, and what the machine itself can do: all that differs between a CPU and a GPU."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from convmixer.kernels import build
from convmixer.runtime.allocator import tune_allocator
from convmixer.runtime.device import device_name
from convmixer.runtime.memory import bytes_of_process

MEASURE_SECONDS = 0.2  # a measurement repeats the step for this long, or
_FEWEST, _MOST = {"cpu": 1, "cuda": 5}, 200  # at least and at most this often
_WARM_UP = {"cpu": 2, "cuda": 3}
_GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
_SHORT_NUMBERS = {"avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"}
_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # far more than any cache holds


def prepare(threads: int, tuned: bool, device: torch.device) -> None:
    """Sets this process up; ``tuned`` as in :class:`convmixer.bench.settings.Setting`."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = tuned
        torch.cuda.init()
    elif tuned:
        tune_allocator()


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Mean time of a step in ``steps`` of them in a row; waits for the GPU before and after, not between."""
    return statistics.fmean(seconds_of_each(step, steps, device))


def seconds_of_each(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Time of each of ``steps`` steps in a row; on a GPU, which is not waited for between them, only their mean."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        return [float(begin.elapsed_time(end)) / 1000 / steps]  # given in milliseconds
    marks = [time.perf_counter()]
    for _ in range(steps):
        step()
        marks.append(time.perf_counter())
    return [end - start for start, end in pairwise(marks)]


def warm_up(step: Callable[[], object], device: torch.device, measure_seconds: float = MEASURE_SECONDS) -> int:
    """Runs the step until it is warm; returns how many steps a measurement of ``measure_seconds`` has."""
    for _ in range(_WARM_UP[device.type]):
        seconds = seconds_of(step, 1, device)
    return max(_FEWEST[device.type], min(_MOST, math.ceil(measure_seconds / seconds)))


@dataclass(frozen=True)
class Machine:
    """Where a record was measured."""

    device: str
    """cpu or cuda."""
    device_name: str
    threads: int
    """Of the CPU."""
    torch: str
    """Version."""
    instructions: str = ""
    """Of the CPU: those that our kernels use (AVX512, AVX2, or DEFAULT, the compiler's), and which of those for 8 and
    16 bits it has besides."""


def this_machine(device: torch.device, threads: int) -> Machine:
    """What a record says of this machine."""
    instructions = [build.instruction_set(), *sorted(_SHORT_NUMBERS & build.processor_flags())]
    return Machine(device.type, device_name(device), threads, torch.__version__, " ".join(instructions))


class Memory:
    """Rise of the memory in use from when this is made to its peak; 0 bytes where the system does not say.

    On a CPU that of the process, since it was made; on a GPU that of its tensors, since the last :meth:`restart`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = bytes_of_process("VmRSS")

    def restart(self) -> None:
        """Gives what a GPU's allocator keeps back to other processes and forgets the peak."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """The largest rise so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return max(0, bytes_of_process("VmHWM") - self._before)


def gemm_flops_per_second(precision: str, device: torch.device, rounds: int = 5) -> float:
    """The best rate of a product of two large square matrices; on a GPU float32 is TF32, as in its convolutions."""
    size = _GEMM_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        best = min(seconds_of(lambda: a @ b, 1, device) for _ in range(rounds + 1))
    finally:
        torch.set_float32_matmul_precision(before)
    return 2.0 * size**3 / best


def copy_bytes_per_second(device: torch.device, rounds: int = 5) -> float:
    """Bytes read and written in a second when a large tensor is copied within the device's memory."""
    source = torch.zeros(_COPY_BYTES[device.type] // 4, device=device).fill_(1.0)
    target = source.clone()
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), 1, device) for _ in range(rounds))
