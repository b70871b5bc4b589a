"""Speed of preparing training images here and by torchvision or Pillow in workers, and how long a model waits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice, pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from convmixer.bench.compare import chosen_kind
from convmixer.bench.pillow import ERASING, MAGNITUDE, PADDING, STEPS, RivalImages, rival_transform
from convmixer.bench.settings import BenchConfig
from convmixer.bench.timing import Machine, this_machine
from convmixer.config import AugmentConfig
from convmixer.data import Dataset, DatasetInfo, Split
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.presets import run_config
from convmixer.runtime.allocator import prepared_cpu
from convmixer.training.build import new_model
from convmixer.training.loop import TrainingLoop

WORKERS = 2
_IMAGES = {"cpu": 8192, "cuda": 65536}
"""In each round, of ours; a GPU would be done with fewer before it could be timed."""
_PILLOW_IMAGES = 8192
_WARM_UP = {"cpu": 2, "cuda": 8}
"""Steps before that: libraries set themselves up, and on a GPU the step is captured as a graph."""
_STEPS = {"cpu": 4, "cuda": 64}
"""Least number of training steps that waiting is measured in."""
REFERENCE = AugmentConfig(
    crop="pad",
    crop_padding=PADDING,
    flip=True,
    randaugment=STEPS,
    randaugment_magnitude=MAGNITUDE,
    erasing=ERASING,
)


@dataclass(frozen=True)
class AugmentRecord:
    """Result for one model and batch size; the images are random."""

    what: str
    model: str
    batch_size: int
    image_size: int
    images_per_second: float
    """Of augmentation and normalisation, from the median of the rounds."""
    slowest: float
    fastest: float
    """Images per second in the slowest and in the fastest round."""
    pillow_images_per_second: float
    """The same for Pillow images, one at a time, in worker processes."""
    pillow_slowest: float
    pillow_fastest: float
    pillow_workers: int
    ratio_to_pillow: float
    """Median of the ratios of each round."""
    wait_seconds: float
    """Of each training step, until its images are there."""
    step_seconds: float
    """A whole training step, waiting included."""
    wait_share: float
    machine: Machine
    rival: str = "Pillow"
    """torchvision, whose transforms work on Pillow images, or the same on Pillow alone."""


def bench_augment(config: BenchConfig, progress: Callable[[str], object] = lambda _: None) -> list[AugmentRecord]:
    """Measures every model and batch size in ``config``.

    Args:
        config: what to measure; settings and the time limit do not matter here.
        progress: is told what is measured next.

    Raises:
        InputError: no such device.
    """
    device = torch.device(chosen_kind(config))
    threads, before = config.threads or torch.get_num_threads(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with prepared_cpu():
            return [record for size in config.batch_sizes for record in _records(config, size, device, progress)]
    finally:
        torch.set_num_threads(before)


def _records(
    config: BenchConfig, batch_size: int, device: torch.device, progress: Callable[[str], object]
) -> Iterator[AugmentRecord]:
    progress(f"augment, batch {batch_size}")
    info, images, labels = _images(max(_IMAGES[device.type], batch_size), config.image_size)
    split = Split(images, labels)
    augment = Augment(REFERENCE, mean=info.mean, mirror=info.mirror)
    ours = TrainBatches(split, batch_size, 0, augment, Normalize(info, device), device)
    part = images[: max(_PILLOW_IMAGES, batch_size)].permute(0, 2, 3, 1).contiguous().numpy()
    name, transform = rival_transform(config.image_size, info.mean, info.std)
    pillow = DataLoader(
        RivalImages(part, labels[: len(part)].tolist(), transform),
        batch_size,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a process with threads of its own cannot be forked safely
    )
    rates: tuple[list[float], list[float]] = ([], [])
    for epoch in range(config.rounds + 1):  # the first one warms both up
        speeds = _rate(ours.epoch(epoch), device), _rate(iter(pillow), device)
        if epoch:
            for rate, speed in zip(rates, speeds, strict=True):
                rate.append(speed)
    del pillow  # with its processes, which the model does not have to share the processors with
    for model in config.models:
        progress(f"waiting for data, {model}, batch {batch_size}")
        loop = _training(model, info, split, batch_size, device)
        loop.model.train()
        wait, step = _waiting(loop.batches, loop.run_update, device)
        yield AugmentRecord(
            what="augment",
            model=model,
            batch_size=batch_size,
            image_size=config.image_size,
            images_per_second=statistics.median(rates[0]),
            slowest=min(rates[0]),
            fastest=max(rates[0]),
            pillow_images_per_second=statistics.median(rates[1]),
            pillow_slowest=min(rates[1]),
            pillow_fastest=max(rates[1]),
            pillow_workers=WORKERS,
            ratio_to_pillow=statistics.median(our / their for our, their in zip(*rates, strict=True)),
            wait_seconds=wait,
            step_seconds=step,
            wait_share=wait / step,
            machine=this_machine(device, torch.get_num_threads()),
            rival=name,
        )


def _images(count: int, size: int) -> tuple[DatasetInfo, Tensor, Tensor]:
    """Random images (N, 3, H, H) uint8 of ten classes, and what is to be known of them."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=source)
    info = DatasetInfo(
        name="random",
        classes=tuple(map(str, range(10))),
        channels=3,
        image_size=size,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        mirror=True,
        fingerprint="",
        sizes={"train": count},
    )
    return info, images, torch.randint(10, (count,), generator=source)


def _training(model: str, info: DatasetInfo, split: Split, batch_size: int, device: torch.device) -> TrainingLoop:
    """A run as ``convmixer train`` would do it."""
    config = replace(run_config(model, batch_size=batch_size), augment=REFERENCE)
    dataset = Dataset(info, {"train": split, "test": split})
    return TrainingLoop(config, dataset, new_model(config, info, device), device)


def _rate(batches: Iterator[Sequence[Tensor]], device: torch.device) -> float:
    """Images per second of an epoch, on the device at its end."""
    begin, count = time.perf_counter(), 0
    for images, _ in batches:
        count += len(images.to(device))
    _synchronize(device)
    return count / (time.perf_counter() - begin)


def _waiting(
    batches: TrainBatches, update: Callable[[Tensor, Tensor], object], device: torch.device
) -> tuple[float, float]:
    """Seconds that a training step waits for its images, and seconds of the whole step, by the device's clock.

    Measured over whole chunks: the first step of each waits for the images of all.
    """
    for images, labels in _cycle(batches, _WARM_UP[device.type]):
        update(images, labels)
    steps = -(-_STEPS[device.type] // batches.chunk) * batches.chunk
    marks = [_mark(device)]
    for images, labels in _cycle(batches, steps):
        marks.append(_mark(device))
        update(images, labels)
        marks.append(_mark(device))
    _synchronize(device)
    times = [_seconds(start, end) for start, end in pairwise(marks)]
    return sum(times[::2]) / steps, sum(times) / steps


def _cycle(batches: TrainBatches, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``number`` batches from as many epochs as it takes."""
    return islice(chain.from_iterable(map(batches.epoch, count())), number)


Mark = float | torch.cuda.Event


def _mark(device: torch.device) -> Mark:
    """The present on the device's clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def format_table(records: Sequence[AugmentRecord]) -> str:
    """A table for people."""
    lines = []
    for size in dict.fromkeys(record.batch_size for record in records):
        group = [record for record in records if record.batch_size == size]
        first = group[0]
        lines.append(f"augment {first.image_size}×{first.image_size}, batch {size}, {first.machine.device_name}")
        rows = [
            ("batched", first.images_per_second, first.slowest, first.fastest, first.ratio_to_pillow),
            (
                f"{first.rival}, {WORKERS} workers",
                first.pillow_images_per_second,
                first.pillow_slowest,
                first.pillow_fastest,
                1,
            ),
        ]
        lines.append(f"  {'pipeline':24} {'img/s':>9} {'(range)':>19} {'÷ rival':>9}")
        for name, rate, slowest, fastest, ratio in rows:
            lines.append(f"  {name:24} {rate:9.0f} {f'({slowest:.0f}-{fastest:.0f})':>19} {ratio:9.2f}")
        lines.append(f"  {'training step':24} {'ms':>9} {'waiting, ms':>19} {'share':>9}")
        for record in group:
            wait, step = 1000 * record.wait_seconds, 1000 * record.step_seconds
            lines.append(f"  {record.model:24} {step:9.2f} {wait:19.3f} {record.wait_share:9.2%}")
    return "\n".join(lines)
