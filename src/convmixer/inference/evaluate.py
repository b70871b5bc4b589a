"""From a predictor and labelled images, or a run directory, to a full evaluation."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmixer.config import Device, Engine, Precision, Tta
from convmixer.data import Part
from convmixer.errors import InputError
from convmixer.inference.predict import softmax
from convmixer.inference.predictor import Predictor
from convmixer.inference.tta import View, itself, views
from convmixer.manifest import Manifest
from convmixer.runs import RunDir
from convmixer.runs.data import LabelledImages, load_images, other_images
from convmixer.utils.metrics import Evaluation, evaluate_predictions
from convmixer.utils.temperature import TemperatureScaling

if TYPE_CHECKING:
    import torch

    from convmixer.data import Dataset, Split
    from convmixer.inference.gallery import Gallery


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
    temperature_scaling: TemperatureScaling | None = None
    """Of the test split, where the run has a validation split to fit the temperature on."""
    gallery: Gallery | None = None
    another_data_set: bool = False
    """Whether the images are not those that the run began with, but others with the same classes."""
    unfinished_epoch: int | None = None
    """Epoch of the weights, where the run has not finished."""
    runtime: str = ""
    """What executed a model file, with its version; empty for a run, which PyTorch executes."""

    @property
    def name(self) -> str:
        """What its files are named after: the split, and what sets it apart from a finished run on its own data."""
        parts = [self.split]
        if self.another_data_set:
            parts.append(re.sub(r"[^\w.-]+", "_", self.dataset.rpartition(":")[2]))
        if self.unfinished_epoch is not None:
            parts.append(f"epoch_{self.unfinished_epoch}")
        return "_".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {key: value for key, value in vars(self).items() if key not in ("figures", "gallery")}
        own["temperature_scaling"] = self.temperature_scaling.to_dict() if self.temperature_scaling else None
        derived = ("balanced_accuracy", "macro_f1", "majority_baseline")
        own |= {name: getattr(self.figures, name) for name in derived}
        return own | self.figures.to_dict() | (self.gallery.to_dict() if self.gallery else {})


@dataclass(frozen=True)
class SplitEvaluation:
    """What a predictor is worth on labelled images."""

    figures: Evaluation
    figures_tta: Evaluation | None
    """With test-time augmentation, if there was any."""
    images_per_second: float
    """Without it."""
    logits: NDArray[np.float32]
    """(N, K), without it."""


def predict_logits(
    predictor: Predictor,
    images: NDArray[np.uint8] | torch.Tensor,
    *,
    batch_size: int | None = None,
    check: Callable[[], None] = lambda: None,
    view: View = itself,
) -> NDArray[np.float32]:
    """The predictor's answers, in the order of the images.

    Args:
        predictor: a model, however it is executed.
        images: (N, C, H, H) uint8, on the CPU.
        batch_size: images at once; by default as many as suit the predictor.
        check: called before every batch; may raise to stop.
        view: what the predictor sees of the images.

    Returns:
        (N, K) float32.
    """
    pixels, size, outputs = np.asarray(images), batch_size or predictor.batch_size, []
    for start in range(0, len(pixels), size):
        check()
        outputs.append(predictor.logits(view(pixels[start : start + size])))
    return np.concatenate(outputs)


def loss_and_accuracy(
    predictor: Predictor, split: Split, *, check: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Mean cross-entropy and fraction of correct answers on labelled images; ``check`` as :func:`predict_logits`."""
    import torch
    import torch.nn.functional as F

    logits, labels = torch.from_numpy(predict_logits(predictor, split.images, check=check)), split.labels
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def evaluate_split(
    predictor: Predictor,
    split: Part | Split,
    *,
    tta: Tta = "none",
    mirror: bool = False,
    batch_size: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> SplitEvaluation:
    """Evaluates a predictor on labelled images, wherever both come from.

    Args:
        predictor: a model, however it is executed.
        split: N images of its size, with labels in the order of its classes.
        tta: test-time augmentation to report beside the plain figures.
        mirror: whether a mirrored image keeps its label, so that such augmentation may mirror.
        batch_size: images at once; by default as many as suit the predictor.
        check: called before every batch; may raise to stop.

    Raises:
        InputError: images of another size than the predictor takes, or more classes than it knows.
    """
    wanted, classes = predictor.input, predictor.classes
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    shape = (wanted.channels, wanted.image_size, wanted.image_size)
    if images.shape[1:] != shape or int(labels.max()) >= len(classes):
        raise InputError(
            f"{predictor.name}: takes images of shape {shape} and knows {len(classes)} classes; the images have shape "
            f"{images.shape[1:]} and labels up to {int(labels.max())}. Evaluate on the data that it was trained for."
        )

    def logits(view: View) -> NDArray[np.float32]:
        return predict_logits(predictor, images, batch_size=batch_size, check=check, view=view)

    def figures(of: NDArray[np.float64]) -> Evaluation:
        return evaluate_predictions(of, labels, classes)

    start = time.perf_counter()
    plain = logits(itself)
    seconds = time.perf_counter() - start
    probabilities = softmax(plain)
    others = [softmax(logits(view)) for view in views(tta, mirror=mirror)[1:]]
    averaged = figures(np.mean((probabilities, *others), axis=0)) if tta != "none" else None
    return SplitEvaluation(figures(probabilities), averaged, len(labels) / seconds, plain)


def evaluate_run(
    path: str | Path,
    split: str = "test",
    *,
    dataset: Dataset | str | None = None,
    data_dir: str | None = None,
    source: str | None = None,
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
        dataset: the run's data, if already loaded; or where they are now, or another labelled set with the same
            classes, as ``--dataset`` takes it.
        data_dir: directory of the archives, if moved since training.
        source: where to download an archive from; without it and ``data_dir`` nothing is downloaded.
        device: where to compute.
        precision: number format.
        engine: how the model is executed.
        tta: test-time augmentation to report beside the plain figures; by default what the run asks for.
        batch_size: images at once; by default as many as suit the device.
        check: called before every batch; may raise to stop.

    Raises:
        InputError: a run without weights, data that do not suit it, a split they do not have.
    """
    import torch

    from convmixer.data import Split
    from convmixer.inference.gallery import Gallery
    from convmixer.inference.torch_predictor import TorchPredictor
    from convmixer.runtime.device import dtype_name

    run = RunDir.existing(path)
    config, info = run.config(), run.dataset()
    predictor = TorchPredictor.load(run, device, precision, engine)
    data = _images(run, split, dataset, data_dir, source)
    parts, deployed = data.parts, predictor.deployed
    part = parts[split]
    tta = config.train.tta if tta is None else tta
    mirror = info.mirror if config.augment.flip is None else config.augment.flip
    found = evaluate_split(predictor, part, tta=tta, mirror=mirror, batch_size=batch_size, check=check)
    chosen = Gallery.choose(
        Split.of(part), torch.from_numpy(softmax(found.logits)), info.classes, deployed.model, deployed.normalize
    )
    return RunEvaluation(
        run=str(run.path),
        split=split,
        dataset=data.name,
        images=len(part),
        images_per_second=found.images_per_second,
        device=predictor.device.type,
        precision=dtype_name(predictor.precision),
        figures=found.figures,
        tta=tta,
        accuracy_tta=found.figures_tta.accuracy if found.figures_tta else None,
        loss_tta=found.figures_tta.loss if found.figures_tta else None,
        temperature_scaling=temperature_scaling(predictor, split, parts, found, batch_size, check),
        gallery=chosen,
        another_data_set=not data.own,
        unfinished_epoch=predictor.unfinished_epoch,
    )


def temperature_scaling(
    predictor: Predictor,
    split: str,
    parts: Mapping[str, Part],
    found: SplitEvaluation,
    batch_size: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> TemperatureScaling | None:
    """The temperature that suits the validation part, judged on the test part, where there are both."""
    if split != "test" or "val" not in parts:
        return None
    val = parts["val"]
    logits = predict_logits(predictor, val.images, batch_size=batch_size, check=check)
    return TemperatureScaling.measure((logits, val.labels), (found.logits, parts["test"].labels), found.figures)


def _images(
    run: RunDir, split: str, dataset: Dataset | str | None, data_dir: str | None, source: str | None
) -> LabelledImages:
    if dataset is None or isinstance(dataset, str):
        return load_images(run, split, dataset=dataset, data_dir=data_dir, source=source)
    if dataset.info.fingerprint != run.dataset().fingerprint:
        raise InputError(other_images(run.path, dataset.info.name))
    if split not in dataset.splits:
        raise InputError(f"--split: this run has no {split} part; choose from {', '.join(dataset.splits)}.")
    return LabelledImages(dataset.info.name, {name: one.part() for name, one in dataset.splits.items()}, own=True)


def write_evaluation(evaluation: RunEvaluation, *, pictures: bool = True) -> list[Path]:
    """Keeps an evaluation in its run directory: the figures as JSON; confusion matrix, calibration, mistakes as PNG."""
    folder, figures = Path(evaluation.run), evaluation.figures
    files = [folder / f"{name}_{evaluation.name}{suffix}" for name, suffix in _EVALUATION_FILES]
    Manifest(folder).write({files[0].name: json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n"})
    if not pictures:
        return files[:1]
    from convmixer.utils.visualization import calibration_diagram, confusion_matrix, save_figure

    title = f"{folder.resolve().name}: {evaluation.split}, {evaluation.images:,} images"
    save_figure(confusion_matrix(figures.confusion, [row.name for row in figures.per_class], title), files[1])
    save_figure(calibration_diagram(figures.calibration, title), files[2])
    if evaluation.gallery is None:
        return files[:3]
    save_figure(evaluation.gallery.figure(), files[3])
    return files


_EVALUATION_FILES = (("evaluation", ".json"), ("confusion", ".png"), ("calibration", ".png"), ("mistakes", ".png"))
