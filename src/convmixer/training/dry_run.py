"""What a run would cost, from a few measured steps; nothing is written."""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from dataclasses import dataclass

import torch

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.inference.deployed import Deployed
from convmixer.inference.evaluate import predict_logits
from convmixer.inference.torch_predictor import TorchPredictor
from convmixer.models import count_multiply_adds, count_parameters
from convmixer.runtime.allocator import prepared_cpu
from convmixer.runtime.device import choose_device, dtype_name
from convmixer.training.build import new_model
from convmixer.training.loop import TrainingLoop
from convmixer.training.memory import memory_for
from convmixer.training.teacher import load_teacher

_WARM_UP, _MEASURED = 2, 5  # steps


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would cost on this machine."""

    parameters: int
    multiply_adds: int
    """For one image, forwards; a multiplication and an addition counted as one."""
    images: dict[str, int]
    """In each split."""
    batch_size: int
    steps_per_epoch: int
    steps: int
    device: str
    precision: str
    engine: str
    step_seconds: float
    """Median of five steps."""
    evaluation_seconds: float
    """Of the held-out images, once an epoch or as --eval-every says; 0 if there are none."""
    minutes: float
    """Of training and evaluation together, without loading, checkpoints and figures."""
    memory_bytes: int
    """Largest amount so far: of the whole process on a CPU (data and libraries included), of tensors on a GPU."""


def dry_run(config: RunConfig, dataset: Dataset) -> DryRun:
    """Builds a run, takes a few steps and measures them.

    Raises:
        InputError: a size that does not fit the images, or no such device.
    """
    device = choose_device(config.train.device)
    with prepared_cpu(), memory_for("the run", config, dataset.info, device):
        teacher = load_teacher(config.train, dataset.info, device)
        loop = TrainingLoop(config, dataset, new_model(config, dataset.info, device), device, teacher=teacher)
        step = _step_seconds(loop)
        start = time.perf_counter()
        if loop.selection:
            predictor = TorchPredictor(
                Deployed(loop.model, loop.batches.normalize), dataset.info, device, loop.precision
            )
            predict_logits(predictor, dataset.splits[loop.selection].images)
        evaluation = time.perf_counter() - start if loop.selection else 0.0
    info, epochs, steps = dataset.info, config.train.epochs, len(loop.batches)
    on_gpu = device.type == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return DryRun(
        parameters=count_parameters(loop.model),
        multiply_adds=count_multiply_adds(config.architecture, info.image_size, len(info.classes), info.channels),
        images=info.sizes,
        batch_size=loop.batches.batch_size,
        steps_per_epoch=steps,
        steps=steps * epochs,
        device=device.type,
        precision=dtype_name(loop.precision),
        engine=loop.state.engine,
        step_seconds=step,
        evaluation_seconds=evaluation,
        minutes=(step * steps * epochs + evaluation * -(-epochs // config.train.eval_every)) / 60,
        memory_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else peak,
    )


def _step_seconds(loop: TrainingLoop) -> float:
    """Median seconds of a step, the first ones, which prepare kernels, left out."""
    loop.model.train()
    seconds = []
    endless = itertools.chain.from_iterable(loop.batches.epoch(epoch, 0) for epoch in itertools.count())
    loop.update.set_lr_scale(0.0)  # any rate takes as long
    for number in range(_WARM_UP + _MEASURED):
        start = time.perf_counter()
        images, targets = next(endless)
        loop.run_update(images, targets)
        if loop.device.type == "cuda":
            torch.cuda.synchronize(loop.device)
        if number >= _WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
