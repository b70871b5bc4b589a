"""A run made smaller: pruned, fine-tuned, quantised; every step's model as a file, and what it is worth beside others.

The steps have a fixed order, and each takes the :class:`~convmixer.deploy.source.Source` that the one before has left.
Training is that of ordinary runs in the folder, so that an interrupted pipeline goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.deploy.check import CheckImages, check_images, compare, require_equal
from convmixer.deploy.export import write_checked
from convmixer.deploy.formats import FORMATS, Format
from convmixer.deploy.measure import Measured, measure_files
from convmixer.deploy.pipeline import LEAST, Pipeline
from convmixer.deploy.prune import Samples, counts_left, pruned
from convmixer.deploy.qat import trained_in_int8
from convmixer.deploy.quantize import FORMAT_OF, check_int8, require_packages, write_int8
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.files import read_bytes, write_atomic
from convmixer.inference.model_file import FilePredictor
from convmixer.inference.paired import mcnemar
from convmixer.records import parse_json
from convmixer.runs import RunDir
from convmixer.runs.data import load_own_data
from convmixer.training import train

if TYPE_CHECKING:
    from rich.console import Console

RECORD = "compression.json"
"""In the folder: the run, the pipeline, and once it has ended the figures and the verdicts."""
_FASTER = 1.05  # of ratios within the same rounds: less is the machine's noise


@dataclass(frozen=True)
class Compression:
    """What came of it."""

    folder: Path
    models: tuple[Measured, ...]
    """The run's own network first, then what the steps made of it, all in the same runtime."""
    verdicts: tuple[str, ...]
    """A few sentences for each but the first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"models": [one.to_dict() for one in self.models], "verdicts": list(self.verdicts)}


def compress_run(
    path: str | Path,
    pipeline: Pipeline,
    out: str | Path | None = None,
    *,
    console: Console | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Compression:
    """Compresses a finished run into a folder of model files; the same call goes on with one that was interrupted.

    Args:
        path: the run directory.
        pipeline: what to do.
        out: the folder; by default beside the run, with -compressed behind its name.
        console: where training shows its progress.
        progress: is told what is done next.

    Raises:
        InputError: no finished run, no data, a step that cannot be done, missing packages, or a folder that holds
            something else.
        Interrupted: SIGINT or SIGTERM arrived in training; a checkpoint was written.
        RuntimeError: a file does not answer as it should; it is not kept.
    """
    run = RunDir.existing(path)
    source = Source.of_run(run)
    folder = run.path.parent / f"{run.path.resolve().name}-compressed" if out is None else Path(out)
    about = {"run": asdict(source.info.origin), "pipeline": asdict(pipeline)}
    _check_folder(folder, about)
    require_packages(pipeline.backend, quantize=bool(pipeline.quantize))
    counts = counts_left(source.info.architecture, pipeline)
    data = load_own_data(run)
    samples = _samples(run, data, pipeline.calibration)
    sources = {"original": source}
    training = _Training(run, pipeline, folder, data, console)
    for number, count in enumerate(counts, 1):
        progress(f"choosing the {count} most important {pipeline.prune}")
        source = pruned(source, pipeline, count, samples)
        _claim(folder, about)
        if pipeline.finetune:
            source = training.finetuned(source, number, len(counts))
    _claim(folder, about)
    if pipeline.finetune and not counts:
        source = training.finetuned(source)
    if source is not sources["original"]:
        sources["compressed"] = source
    if pipeline.baseline:
        sources["scratch"] = training.from_scratch(source)
    files, images, kind = [], check_images(run), FORMATS[FORMAT_OF[pipeline.backend]]
    for name, one in sources.items():
        file = folder / f"{name}{kind.suffix}"
        progress(f"writing {file.name}")
        files.append(_write_float32(one, images, file, kind))
    if pipeline.quantize:
        files += _write_int8(training, source, samples, progress)
    models = tuple(measure_files(files, data=run, progress=progress))
    verdicts = [verdict(models[0], one) for one in models[1:]]
    if pipeline.baseline:
        verdicts.append(_against_scratch(*(models[list(sources).index(name)] for name in ("compressed", "scratch"))))
    result = Compression(folder, models, tuple(verdicts))
    write_atomic(folder / RECORD, _json(about | result.to_dict()))
    return result


def verdict(reference: Measured, other: Measured) -> str:
    """What a model is worth beside another one on this machine, from what was measured alone."""
    low, high = (100 * (other.difference + sign * other.difference_half_width) for sign in (-1, 1))
    faster = other.speed_ratio >= _FASTER or other.latency_ratio <= 1 / _FASTER
    slower = other.speed_ratio <= 1 / _FASTER or other.latency_ratio >= _FASTER
    worse = high < 0
    if faster and slower:
        speed = "It is faster here in one way of use and slower in the other"
    else:
        speed = "It is faster here" if faster else "It is slower here" if slower else "It is not faster here"
    if other.bytes >= reference.bytes and not faster:
        worth = "not worth it"
    elif worse:
        worth = f"worth it only where {-100 * other.difference:.2f} points of accuracy may be lost"
    elif not faster:
        worth = "worth it only for its size"
    elif slower:
        worth = "worth it only for its size, or where its faster use is yours"
    else:
        worth = "worth it"
    return (
        f"{Path(other.file).name} against {Path(reference.file).name} in {other.runtime}: "
        f"accuracy {100 * other.accuracy:.2f} against {100 * reference.accuracy:.2f} % "
        f"({100 * other.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, McNemar p = "
        f"{other.p_value:.2g}, {other.images:,} images); {other.bytes / reference.bytes:.2f} of the size; "
        f"{other.latency_ratio:.2f} of the latency of one image in one thread; {other.speed_ratio:.2f} times the "
        f"images per second. {speed}: {worth}."
    )


def _against_scratch(compressed: Measured, scratch: Measured) -> str:
    """Whether pruning was worth more than training the same network anew for as long."""
    found = mcnemar(*(torch.from_numpy(one.correct) for one in (scratch, compressed)))
    low, high = (100 * (found.difference + sign * found.half_width) for sign in (-1, 1))
    result = "is better than" if low > 0 else "is worse than" if high < 0 else "cannot be told from"
    return (
        f"The pruned network {result} the same one trained from scratch for the same time: "
        f"{100 * found.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} (test images; one run each)."
    )


def _check_folder(folder: Path, about: dict[str, Any]) -> None:
    """Raises InputError if the folder holds anything but the same pipeline's files."""
    if not folder.exists() and folder.parent.is_dir():
        return
    if not folder.is_dir():
        where = f"lies in {folder.parent}, which is no folder" if not folder.parent.is_dir() else "is no folder"
        raise InputError(f"--out: {folder} {where}; name a new one in a folder that exists.")
    if all(file.name.startswith(".") for file in folder.iterdir()):
        return  # empty, but for what a killed process may have left
    if not (folder / RECORD).exists():
        raise InputError(f"--out: {folder} holds other files; choose another one.")
    found = parse_json(read_bytes(folder / RECORD), str(folder / RECORD))
    if not isinstance(found, dict) or any(found.get(key) != json.loads(_json(value)) for key, value in about.items()):
        raise InputError(f"--out: {folder} holds another run's, or another pipeline's, models; choose another one.")


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Makes the folder the pipeline's."""
    folder.mkdir(exist_ok=True)
    write_atomic(folder / RECORD, _json(about))


def _samples(run: RunDir, data: Dataset, count: int) -> Samples:
    """Training images of the run's own data, drawn once for all."""
    part = data.splits["train"]
    if len(part) < LEAST:
        raise InputError(f"--calibration: {run.path} has {len(part)} training images, and {LEAST} are needed.")
    chosen = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(part))[:count]))
    return Samples(part.images[chosen], part.labels[chosen])


@dataclass
class _Training:
    """The runs that a pipeline trains, in its folder."""

    run: RunDir
    pipeline: Pipeline
    folder: Path
    data: Dataset
    console: Console | None
    finetunings: list[RunDir] = field(default_factory=list)

    def finetuned(self, source: Source, step: int = 1, steps: int = 1) -> Source:
        """The network after its share of the training."""
        pipeline, train_config = self.pipeline, self.run.config().train
        name = "" if step == steps else f"-{step}"
        epochs = pipeline.finetune * step // steps - pipeline.finetune * (step - 1) // steps
        start, kind = self.folder / f"start{name}.safetensors", FORMATS["safetensors"]
        write_checked(start, kind, lambda where: kind.write(source, where), lambda _: None)
        config = self.config(source).replace(
            epochs=epochs,
            init_from=str(start.absolute()),
            teacher=str(Path(pipeline.teacher).absolute()) if pipeline.teacher else None,
            lr=train_config.lr * pipeline.lr_scale,
            muon_lr=train_config.muon_lr * pipeline.lr_scale,
        )
        change = {"step": "finetune", "epochs": epochs, "lr_scale": pipeline.lr_scale}
        change |= {"teacher": pipeline.teacher} if pipeline.teacher else {}
        place = RunDir(self.folder / f"finetuned{name}")
        trained = self._trained(config, place, "choose a smaller --lr-scale")
        self.finetunings.append(place)
        return replace(trained, info=replace(trained.info, changes=(*source.info.changes, change)))

    def from_scratch(self, source: Source) -> Source:
        """The smaller network, trained for as long as the run and its fine-tuning were."""
        place = RunDir(self.folder / "scratch")
        if (place.path / "config.json").exists():
            epochs = place.config().train.epochs  # as it began: times are measured anew where training is
        elif self.finetunings:
            spent = sum(_epoch_seconds(run) * len(run.metrics()) for run in (self.run, *self.finetunings))
            epochs = max(1, round(spent / _epoch_seconds(self.finetunings[-1])))
        else:
            epochs = self.run.config().train.epochs
        config = self.config(source).replace(epochs=epochs, init_from=None, teacher=None)
        return self._trained(config, place, "leave out --baseline")

    def config(self, source: Source) -> RunConfig:
        """The run's settings, for another architecture."""
        config = replace(self.run.config(), architecture=source.info.architecture)
        return config.replace(freeze="", image_size_start=None)

    def _trained(self, config: RunConfig, place: RunDir, advice: str) -> Source:
        begun = (place.path / "config.json").exists()
        summary = train(config, place.path, resume=begun, dataset=self.data, console=self.console)
        if summary.status != "finished":
            raise InputError(f"{place.path}: the training {summary.status} ({summary.message}); {advice}.")
        return Source.of_run(place)


def _epoch_seconds(run: RunDir) -> float:
    """What an epoch takes where nothing else runs beside it: as long as the fastest one."""
    return min(record.seconds for record in run.metrics())


def _write_float32(source: Source, images: CheckImages, file: Path, kind: Format) -> Path:
    def check(written: FilePredictor) -> None:
        require_equal(compare(source.predictor(), written, images, exact=source.exact_logits), written)

    write_checked(file, kind, lambda where: kind.write(source, where), check)
    return file


def _write_int8(training: _Training, source: Source, samples: Samples, progress: Callable[[str], object]) -> list[Path]:
    """Writes the network in 8 bits and, where it is to be trained for that, once more."""
    backend, chosen, files = training.pipeline.backend, samples.images.numpy(), []
    kind = FORMATS[FORMAT_OF[backend]]
    sources = {"int8": source}
    if epochs := training.pipeline.qat:
        progress("training for int8")
        config = training.config(source)
        sources["int8-qat"] = trained_in_int8(source, config, training.data, epochs, samples.images, training.folder)
    for name, one in sources.items():
        file = training.folder / f"{name}{kind.suffix}"
        progress(f"writing {file.name}")
        write_checked(
            file,
            kind,
            partial(write_int8, one, backend=backend, images=chosen),
            lambda written: check_int8(written, chosen),
        )
        files.append(file)
    return files


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def describe(models: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Rows of a table: name, accuracy, size, latency, throughput."""
    return [
        (
            Path(one.file).name,
            f"{100 * one.accuracy:.2f}%",
            f"{one.bytes / 1e6:.2f} MB",
            f"{one.multiply_adds / 1e6:.1f} M",
            f"{1e3 * one.latency_p50:.2f} / {1e3 * one.latency_p99:.2f} ms",
            f"{one.images_per_second:,.0f} img/s",
        )
        for one in models
    ]
