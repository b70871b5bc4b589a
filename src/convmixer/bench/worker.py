"""One competitor in a process of its own: ``python -m convmixer.bench.worker JOB``, JOB a :class:`Job` as JSON.

It builds the network, runs it until it is warm, writes a line ``{"ready": true}`` and then, for every line it reads,
runs one measurement and writes ``{"seconds": …, "peak_bytes": …}``. A setting that does not exist here is
``{"skip": why}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from convmixer.bench.settings import Setting
from convmixer.kernels.allocator import tune_allocator
from convmixer.models import create_model
from convmixer.presets import model_preset

WARM_UP = 1


@dataclass(frozen=True)
class Job:
    """What a worker measures."""

    what: str
    model: str
    batch_size: int
    image_size: int
    threads: int
    setting: Setting


def build(job: Job) -> torch.nn.Module:
    """The network of a job. Raises ImportError where it needs a library that is not installed."""
    torch.manual_seed(0)
    model: torch.nn.Module
    if job.setting.timm:
        from timm.models.convmixer import ConvMixer

        preset = model_preset(job.model)
        sizes = preset.architecture
        if sizes.variant != "base":
            raise ImportError("timm has no such variant")
        act = torch.nn.GELU if sizes.activation == "gelu" else torch.nn.ReLU
        model = ConvMixer(
            sizes.dim, sizes.depth, sizes.kernel_size, sizes.patch_size, num_classes=preset.n_classes, act_layer=act
        )
    else:
        model = create_model(job.model, engine=job.setting.engine)
    if job.setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def step_of(job: Job) -> Callable[[], object]:
    """A function that trains (forward, loss, backward, AdamW) or infers one batch."""
    model = build(job)
    x = torch.randn(job.batch_size, 3, job.image_size, job.image_size)
    y = torch.randint(0, 10, (job.batch_size,))
    x = x.to(memory_format=torch.channels_last) if job.setting.channels_last else x
    if job.what == "infer" and job.setting.engine != "plain":
        model.fuse()  # type: ignore[operator]
    run = torch.compile(model) if job.setting.compile else model
    precision = torch.autocast("cpu", torch.bfloat16, enabled=job.setting.bf16)

    def infer() -> None:
        with torch.inference_mode(), precision:
            run(x)

    if job.what == "infer":
        model.eval()
        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        with precision:
            loss = F.cross_entropy(run(x), y)
        loss.backward()
        optimizer.step()

    return train


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if statm.is_file() else 0


def peak_bytes() -> int:
    """Largest memory of this process so far; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serves measurements on standard input and output."""
    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, "setting": Setting(**fields["setting"])})
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    if job.setting.tuned_allocator:
        tune_allocator()
    before = resident_bytes()
    try:
        step = step_of(job)
    except ImportError as error:
        _answer({"skip": str(error)})
        return
    for _ in range(WARM_UP):
        step()
    _answer({"ready": True})
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        _answer({"seconds": time.perf_counter() - begin, "peak_bytes": max(0, peak_bytes() - before)})


def _answer(content: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def to_json(job: Job) -> str:
    """What :func:`main` reads from its command line."""
    return json.dumps(dataclasses.asdict(job))


if __name__ == "__main__":
    main()
