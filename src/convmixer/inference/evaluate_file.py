"""From a model file and labelled images to an evaluation; torch is not needed where the file's runtime does without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from convmixer.config import DataConfig, Tta
from convmixer.errors import InputError
from convmixer.inference.evaluate import RunEvaluation, evaluate_split, temperature_scaling
from convmixer.inference.model_file import ModelInfo, open_model_file
from convmixer.runs import RunDir
from convmixer.runs.data import LabelledImages, Wanted, load_images, load_labelled


def evaluate_file(
    path: str | Path,
    split: str = "test",
    *,
    run: str | Path | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    source: str | None = None,
    tta: Tta | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> RunEvaluation:
    """Evaluates a model file as :func:`convmixer.inference.evaluate.evaluate_run` does a run, without pictures.

    Args:
        path: a file that ``convmixer export`` wrote.
        split: train (without the validation part), val or test.
        run: whose data to evaluate on; by default the run in whose directory the file lies.
        dataset: where the data are now, or another labelled set with the same classes.
        data_dir: directory of the archives, if moved since training.
        source: where to download an archive from; without it and ``data_dir`` nothing is downloaded.
        tta: test-time augmentation to report beside the plain figures.
        batch_size: images at once; by default as many as suit the runtime.
        threads: to compute with; by default as many as the runtime thinks best.
        check: called before every batch; may raise to stop.

    Raises:
        InputError: no model file, its runtime is not installed, or no data that suit it.
    """
    predictor = open_model_file(path, threads=threads)
    home = home_run(path, predictor.info) if run is None else RunDir.existing(run)
    mirror, data = False, None
    if home is not None:
        if tuple(home.dataset().classes) != predictor.classes:
            raise InputError(f"{home.path}: has other classes than {path}; give the run that the file was made from.")
        flip = home.config().augment.flip
        mirror = home.dataset().mirror if flip is None else flip
        data = load_images(home, split, dataset=dataset, data_dir=data_dir, source=source)
    else:
        data = load_without_run(predictor.name, predictor.info, split, dataset, data_dir, source)
    part, asked = data.parts[split], tta or "none"
    found = evaluate_split(predictor, part, tta=asked, mirror=mirror, batch_size=batch_size, check=check)
    return RunEvaluation(
        run=str(path),
        split=split,
        dataset=data.name,
        images=len(part),
        images_per_second=found.images_per_second,
        device="cpu",
        precision=predictor.info.precision,
        figures=found.figures,
        tta=asked,
        accuracy_tta=found.figures_tta.accuracy if found.figures_tta else None,
        loss_tta=found.figures_tta.loss if found.figures_tta else None,
        temperature_scaling=temperature_scaling(predictor, split, data.parts, found, batch_size, check),
        another_data_set=not data.own,
        runtime=predictor.runtime,
    )


def home_run(path: str | Path, info: ModelInfo) -> RunDir | None:
    """The run in whose directory a file lies, if the file, which ``info`` is the description of, was made from it."""
    run = RunDir(Path(path).parent)
    if not (run.path / "config.json").is_file() or run.config().identity_hash() != info.origin.identity:
        return None
    return run


def load_without_run(
    name: str,
    info: ModelInfo,
    split: str,
    dataset: str | None,
    data_dir: str | None = None,
    source: str | None = None,
) -> LabelledImages:
    """Images for a model file ``name`` that lies in no run's directory; arguments as :func:`evaluate_file`."""
    if dataset is None:
        raise InputError(
            f"{name}: lies in no run's directory; say with --data which run's images to evaluate it on, or "
            "name others with --dataset."
        )
    wanted = Wanted(name, DataConfig(), "validation", info.classes, info.image_size, info.origin.fingerprint)
    return load_labelled(wanted, split, dataset=dataset, data_dir=data_dir, source=source)
