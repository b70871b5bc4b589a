"""From a run directory to a full evaluation."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convmixer.config import Device, Engine, Precision, Tta
from convmixer.data import Dataset, Split, load_dataset
from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.inference.trained import TrainedModel
from convmixer.inference.tta import views
from convmixer.runs import RunDir
from convmixer.runtime.device import dtype_name
from convmixer.utils.metrics import Evaluation, evaluate_predictions


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
