"""Runs and model files side by side: what they are worth, how large they are, and how fast they answer here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convmixer.bench.timing import Machine, this_machine
from convmixer.data import Part
from convmixer.deploy.formats import FORMATS
from convmixer.deploy.processes import Worker
from convmixer.errors import InputError
from convmixer.inference.evaluate_file import home_run, load_without_run
from convmixer.inference.model_file import ModelInfo, is_model_file
from convmixer.inference.paired import mcnemar
from convmixer.models import build_model, count_multiply_adds, count_parameters
from convmixer.runs import RunDir
from convmixer.runs.data import LabelledImages, load_images
from convmixer.utils.comparisons import accuracy_interval

BATCH = 64
"""Images at once when throughput is measured."""
ROUNDS = 5
_SECONDS = 0.5  # of a turn, about
_CALLS, _BATCH_CALLS = (40, 1000), (2, 100)  # at least and at most in a turn: of one image, of a batch
_VARIETY = 64  # images that calls take in turn


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run or a model file is worth on the test images, and what it costs on this machine's CPU.

    Every ratio is to the first one measured with it: the median of the ratios within each round, in which all have
    their turn one after the other.
    """

    file: str
    """As given: a run directory or a model file."""
    format: str
    """run, or a name in :data:`convmixer.deploy.formats.FORMATS`."""
    runtime: str
    """What executed it, with its version."""
    precision: str
    bytes: int
    """Of the weights of a run, or of a file with what lies beside it."""
    parameters: int
    multiply_adds: int
    """For one image."""
    data: str
    """Whose test images."""
    images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    """95 % (Wilson): what the choice of test images leaves open."""
    correct: NDArray[np.bool_] = field(repr=False, compare=False)
    """(N,): which images got the right class, in the order of the test split."""
    difference: float
    """Accuracy minus that of the first, on the same images."""
    difference_half_width: float
    """Of its 95 % interval."""
    p_value: float
    """Of the exact McNemar test against the first; see :func:`convmixer.inference.paired.mcnemar`."""
    latency_p50: float
    """Seconds for one image, in one thread: the median, and below the 99th percentile."""
    latency_p99: float
    latency_ratio: float
    calls: int
    """Of one image, that were timed."""
    images_per_second: float
    """In batches of ``batch_size``, with ``threads``: the median of the rounds."""
    slowest: float
    fastest: float
    """Images per second in the slowest and in the fastest round."""
    speed_ratio: float
    batch_size: int
    threads: int
    peak_memory: int | None
    """Bytes by which the process that answers one image at a time is larger at its peak than Python with NumPy:
    runtime, weights and activations. None where the system does not say."""
    runtime_memory: int | None
    """Of these, what importing the runtime takes."""
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the machine's among the others; without ``correct``."""
        own = {name: value for name, value in vars(self).items() if name not in ("correct", "machine")}
        return own | {"accuracy_interval": list(self.accuracy_interval)} | vars(self.machine)


def measure_files(
    paths: Sequence[str | Path],
    *,
    data: RunDir | str | Path | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    threads: int | None = None,
    batch_size: int = BATCH,
    rounds: int = ROUNDS,
    seconds: float = _SECONDS,
    progress: Callable[[str], object] = lambda _: None,
) -> list[Measured]:
    """Measures runs and model files on the CPU, each in fresh processes of its own, in turns.

    A process has one runtime in it, so that none meets another's threads, and one is asked at a time.

    Args:
        paths: run directories that have finished, .onnx, .xml and .safetensors files, in any mixture.
        data: run whose test images to take; by default the first run among ``paths``, else the run in whose directory
            the first of the files lies that lies in one.
        dataset: where these images are now, or another labelled set with the same classes.
        data_dir: directory of the archives, if moved since training.
        threads: for throughput; by default PyTorch's own number. One image at a time is always answered in one thread.
        batch_size: images at once for throughput.
        rounds: turns of each.
        seconds: that a turn takes, about.
        progress: is told what is done next.

    Raises:
        InputError: no path, one that is neither run nor model file, a run that has not finished, no such data, or
            models that take other images or know other classes.
    """
    if not paths:
        raise InputError("bench: no run or model file is given; name at least one with --files.")
    names, count = [str(path) for path in paths], torch.get_num_threads() if threads is None else threads
    for argument, value in (("batch_sizes", batch_size), ("rounds", rounds), ("threads", count)):
        if value < 1:
            raise InputError(f"`{argument}`: {value} is out of range; give at least 1.")
    for name in names:
        _check_path(name)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name)) for name in names]
        opened = [worker.open(1) for worker in workers]
        infos = [one.info for one in opened]
        images, classes = _images(names, infos, data, dataset, data_dir)
        part = images.parts["test"]
        for name, info in zip(names, infos, strict=True):
            _check(name, info, part, classes, images.name)
        ones = _batches(part.images[:_VARIETY], 1)
        times: list[list[list[float]]] = []
        for number in range(rounds):
            progress(f"one image at a time, round {number + 1} of {rounds}")
            times.append([worker.ask("times", ones, seconds, *_CALLS) for worker in workers])
        memory = [worker.ask("peak_memory") for worker in workers]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name)) for name in names]
        correct = []
        for worker, info in zip(workers, infos, strict=True):
            progress(f"{worker.name}: {len(part):,} test images")
            worker.open(count)
            correct.append(_correct(worker, part, info, classes, batch_size))
        batch = [part.images[np.arange(batch_size) % len(part)]]
        speeds: list[list[float]] = []
        for number in range(rounds):
            progress(f"{batch_size} images at once, round {number + 1} of {rounds}")
            taken = [worker.ask("times", batch, seconds, *_BATCH_CALLS) for worker in workers]
            speeds.append([batch_size / statistics.median(one) for one in taken])
    machine = this_machine(torch.device("cpu"), count)
    latencies = [[statistics.median(calls) for calls in turn] for turn in times]
    paired = [mcnemar(torch.from_numpy(correct[0]), torch.from_numpy(own)) for own in correct]
    return [
        Measured(
            file=name,
            format=_format(name),
            runtime=opened[i].runtime,
            precision=info.precision,
            bytes=size_of(name),
            parameters=_parameters(info),
            multiply_adds=count_multiply_adds(info.architecture, info.image_size, len(info.classes), info.channels),
            data=images.name,
            images=len(part),
            accuracy=int(correct[i].sum()) / len(part),
            accuracy_interval=accuracy_interval(int(correct[i].sum()), len(part)),
            correct=correct[i],
            difference=paired[i].difference,
            difference_half_width=paired[i].half_width,
            p_value=paired[i].p_value,
            latency_p50=float(np.quantile(calls := np.concatenate([turn[i] for turn in times]), 0.5)),
            latency_p99=float(np.quantile(calls, 0.99)),
            latency_ratio=statistics.median(turn[i] / turn[0] for turn in latencies),
            calls=len(calls),
            images_per_second=statistics.median(turn[i] for turn in speeds),
            slowest=min(turn[i] for turn in speeds),
            fastest=max(turn[i] for turn in speeds),
            speed_ratio=statistics.median(turn[i] / turn[0] for turn in speeds),
            batch_size=batch_size,
            threads=count,
            peak_memory=memory[i],
            runtime_memory=opened[i].runtime_memory,
            machine=machine,
        )
        for i, (name, info) in enumerate(zip(names, infos, strict=True))
    ]


def size_of(path: str | Path) -> int:
    """Bytes of a run's weights, or of a model file with what lies beside it."""
    place = Path(path)
    if place.is_dir():
        return RunDir(place).weights.stat().st_size
    beside = next((kind.beside for kind in FORMATS.values() if kind.suffix == place.suffix.lower()), ())
    files = [place, *(place.with_suffix(suffix) for suffix in beside)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _check_path(path: str) -> None:
    """Raises InputError if this is neither a run directory nor a model file."""
    if Path(path).is_dir():
        RunDir.existing(path)
    elif not is_model_file(path):
        known = ", ".join(dict.fromkeys(kind.suffix for kind in FORMATS.values() if kind.suffix != ".pt2"))
        raise InputError(f"{path}: is neither a run directory nor a model file ({known}); convmixer export writes one.")


def _format(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return "run" if Path(name).is_dir() else next(key for key, kind in FORMATS.items() if kind.suffix == suffix)


def _images(
    names: Sequence[str],
    infos: Sequence[ModelInfo],
    data: RunDir | str | Path | None,
    dataset: str | None,
    data_dir: str | None,
) -> tuple[LabelledImages, tuple[str, ...]]:
    """The images, and the classes in the order of their labels."""
    home = data if isinstance(data, RunDir) or data is None else RunDir.existing(data)
    if home is None:
        runs = (RunDir(Path(name)) for name in names if Path(name).is_dir())
        homes = (home_run(name, info) for name, info in zip(names, infos, strict=True) if is_model_file(name))
        home = next(runs, None) or next(filter(None, homes), None)
    if home is None:
        return load_without_run(names[0], infos[0], "test", dataset, data_dir), infos[0].classes
    return load_images(home, "test", dataset=dataset, data_dir=data_dir), home.dataset().classes


def _check(name: str, info: ModelInfo, part: Part, classes: Sequence[str], data: str) -> None:
    """Raises InputError if a model cannot be judged on these images."""
    if set(info.classes) != set(classes):
        raise InputError(
            f"{name}: knows other classes than the images of {data} have; compare models of the same classes, or say "
            "with --data which run's images to take."
        )
    wanted, given = (info.channels, info.image_size, info.image_size), part.images.shape[1:]
    if wanted != given:
        raise InputError(
            f"{name}: takes images of shape {wanted}, those of {data} have {given}; compare models for images of the "
            "same size."
        )


def _correct(worker: Worker, part: Part, info: ModelInfo, classes: Sequence[str], batch_size: int) -> NDArray[np.bool_]:
    """Which images (N,) a model classifies correctly, whatever the order of its classes."""
    label = np.array([classes.index(name) for name in info.classes])
    found = [worker.ask("logits", images).argmax(1) for images in _batches(part.images, batch_size)]
    correct: NDArray[np.bool_] = label[np.concatenate(found)] == part.labels
    return correct


def _batches(images: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def _parameters(info: ModelInfo) -> int:
    with torch.device("meta"):  # shapes only
        return count_parameters(build_model(info.architecture, len(info.classes), info.channels, "plain"))
