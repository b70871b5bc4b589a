"""From a model and images to logits, and from a run directory to a full evaluation."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from convmixer.config import Device, Engine, Precision, Tta
from convmixer.data import Dataset, DatasetInfo, Split, load_dataset
from convmixer.data.batches import Normalize, in_order
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.models import build_model, load_weights
from convmixer.training.run_dir import RunDir, Status
from convmixer.training.runtime import autocast, choose_device, choose_precision, dtype_name
from convmixer.training.views import View, itself, views
from convmixer.utils.metrics import Evaluation, evaluate_predictions

_BATCH = {"cpu": 500}  # images at once, by default; elsewhere more, as launching operations takes time
_LARGE_BATCH = 2500
_ENDED: tuple[Status, ...] = ("finished", "diverged", "pruned")  # nothing is left to resume


def compute_logits(
    model: nn.Module,
    split: Split,
    normalize: Normalize,
    device: torch.device,
    precision: torch.dtype,
    *,
    batch_size: int | None = None,
    check: Callable[[], None] = lambda: None,
    view: View = itself,
) -> torch.Tensor:
    """The model's outputs in evaluation mode for all images of ``split``, in their order.

    Args:
        model: put into evaluation mode.
        split: N images.
        normalize: what the model's inputs went through in training.
        device: where the model is.
        precision: dtype of autocast.
        batch_size: images at once; by default as many as suit the device.
        check: called before every batch; may raise to stop.
        view: what the model sees of the images.

    Returns:
        (N, K) float32 on the CPU.
    """
    model.eval()
    outputs = []
    with torch.inference_mode(), autocast(device, precision):
        for images in in_order(split, batch_size or _BATCH.get(device.type, _LARGE_BATCH), normalize, device):
            check()
            outputs.append(model(view(images)).float())
    return torch.cat(outputs).cpu()


def loss_and_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean cross-entropy and fraction of correct answers of (N, K) logits for (N,) labels."""
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


@dataclass(frozen=True)
class TrainedModel:
    """A run's selected weights, ready to be used, and what they were trained on."""

    model: nn.Module
    info: DatasetInfo
    normalize: Normalize
    device: torch.device
    precision: torch.dtype

    @classmethod
    def load(
        cls, run: RunDir, device: Device = "auto", precision: Precision = "auto", engine: Engine = "auto"
    ) -> TrainedModel:
        """The model in a run directory. Raises InputError if there is none yet, or no such device."""
        config, info = run.config(), run.dataset()
        weights = run.path / "model.safetensors"
        if not weights.exists():
            status = run.status()
            what = "train again, into another --out" if status in _ENDED else "continue it with --resume"
            raise InputError(f"{run.path}: has no model.safetensors; the run is {status}, {what}.")
        where = choose_device(device)
        model = build_model(config.architecture, len(info.classes), info.channels, engine)
        load_weights(model, weights)
        layout = torch.channels_last if config.train.channels_last else torch.preserve_format
        model.to(where, memory_format=layout).eval().fuse()  # type: ignore[call-overload]
        normalize = Normalize(info, where, config.train.channels_last)
        return cls(model, info, normalize, where, choose_precision(precision, where))

    def logits(
        self,
        split: Split,
        *,
        batch_size: int | None = None,
        check: Callable[[], None] = lambda: None,
        view: View = itself,
    ) -> torch.Tensor:
        """(N, K) float32 for the images of ``split``; see :func:`compute_logits`."""
        arguments = (self.model, split, self.normalize, self.device, self.precision)
        return compute_logits(*arguments, batch_size=batch_size, check=check, view=view)


@dataclass(frozen=True)
class RunEvaluation:
    """What ``convmixer evaluate`` prints."""

    run: str
    split: str
    dataset: str
    images: int
    images_per_second: float
    device: str
    precision: str
    figures: Evaluation
    tta: Tta = "none"
    accuracy_tta: float | None = None
    """With test-time augmentation, if there was any; all other figures are without."""
    loss_tta: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {key: value for key, value in vars(self).items() if key != "figures"}
        return own | self.figures.to_dict()


def evaluate_run(
    path: str | Path,
    split: str = "test",
    *,
    dataset: Dataset | None = None,
    data_dir: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
    tta: Tta | None = None,
    batch_size: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> RunEvaluation:
    """Evaluates the selected weights of a run on one of its splits.

    Args:
        path: the run directory.
        split: train (without the validation part), val or test.
        dataset: the run's data, where the caller has them; loaded otherwise.
        data_dir: where archives lie, if not where they lay in training.
        device: where to compute.
        precision: number format.
        engine: how the model is executed.
        tta: test-time augmentation to report beside the plain figures; by default what the run asks for.
        batch_size: images at once; by default as many as suit the device.
        check: called before every batch; may raise to stop.

    Raises:
        InputError: not a finished run, data that are not the run's, a split it does not have.
    """
    run = RunDir.existing(path)
    config, info = run.config(), run.dataset()
    trained = TrainedModel.load(run, device, precision, engine)
    part = _part_of(run, split, dataset, data_dir)
    start = time.perf_counter()
    logits = trained.logits(part, batch_size=batch_size, check=check)
    seconds = time.perf_counter() - start
    probabilities = logits.double().softmax(1)
    tta = config.train.tta if tta is None else tta
    mirror = info.mirror if config.augment.flip is None else config.augment.flip
    augmented = None
    if tta != "none":
        others = [
            trained.logits(part, batch_size=batch_size, check=check, view=view).double().softmax(1)
            for view in views(tta, mirror=mirror)[1:]
        ]
        mean = torch.stack((probabilities, *others)).mean(0)
        augmented = evaluate_predictions(mean.numpy(), part.labels.numpy(), info.classes)
    return RunEvaluation(
        run=str(run.path),
        split=split,
        dataset=info.name,
        images=len(part),
        images_per_second=len(part) / seconds,
        device=trained.device.type,
        precision=dtype_name(trained.precision),
        figures=evaluate_predictions(probabilities.numpy(), part.labels.numpy(), info.classes),
        tta=tta,
        accuracy_tta=augmented.accuracy if augmented else None,
        loss_tta=augmented.loss if augmented else None,
    )


def _part_of(run: RunDir, split: str, dataset: Dataset | None, data_dir: str | None) -> Split:
    """A part of the images that a run was trained on. Raises InputError if they are others, or have no such part."""
    config, info = run.config(), run.dataset()
    if dataset is None:
        data = config.replace(data_dir=data_dir).data if data_dir else config.data
        dataset = load_dataset(data, protocol=config.protocol)
    if dataset.info.fingerprint != info.fingerprint:
        raise InputError(
            f"{config.data.dataset}: these are not the images that {run.path} was trained on "
            "(their fingerprint differs from the one in its dataset.json); evaluate on the original data."
        )
    if split not in dataset.splits:
        raise InputError(f"--split: this run has no {split} part; choose from {', '.join(dataset.splits)}.")
    return dataset.splits[split]


def write_evaluation(evaluation: RunEvaluation, *, pictures: bool = True) -> list[Path]:
    """Keeps an evaluation in its run directory: the figures as JSON, confusion matrix and calibration as pictures."""
    folder, figures = Path(evaluation.run), evaluation.figures
    files = [folder / f"{name}_{evaluation.split}{suffix}" for name, suffix in _EVALUATION_FILES]
    write_atomic(files[0], json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n")
    if not pictures:
        return files[:1]
    from convmixer.utils.visualization import calibration_diagram, confusion_matrix, save_figure

    save_figure(confusion_matrix(figures.confusion, [row.name for row in figures.per_class]), files[1])
    save_figure(calibration_diagram(figures.calibration), files[2])
    return files


def read_evaluation(run: RunDir, split: str = "test") -> Evaluation | None:
    """The figures that :func:`write_evaluation` kept, or None if it did not. Raises InputError if they are damaged."""
    path = run.path / f"evaluation_{split}.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        return Evaluation.from_dict({field.name: values[field.name] for field in dataclasses.fields(Evaluation)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not hold an evaluation ({error!r}).") from None


_EVALUATION_FILES = (("evaluation", ".json"), ("confusion", ".png"), ("calibration", ".png"))
