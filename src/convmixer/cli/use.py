"""The commands that use a trained model: convmixer evaluate and predict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from rich.table import Table

from convmixer.cli.output import ERRORS, check_figure_file, print_json, print_table, save_picture
from convmixer.config import Device, Engine, Precision, Tta
from convmixer.errors import InputError
from convmixer.runtime.terminal import Terminal
from convmixer.utils.formatting import percent

if TYPE_CHECKING:
    from convmixer.inference import RunEvaluation
    from convmixer.inference.predictor import Predictor

_MISTAKES = 5  # that are printed; the run directory has more of them
_EXPLAINED = 48  # images of a --cam


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run or an exported file: accuracy, calibration, classes; of a run confusion and mistakes, too."""

    model: tyro.conf.Positional[Path]
    """Run directory, or a file: .onnx, .xml (OpenVINO) or .safetensors."""
    split: Literal["test", "val", "train"] = "test"
    """Which part of the data; train is without the validation part."""
    dataset: str | None = None
    """Where the run's data are now, if moved since training; or another labelled set with the same classes."""
    data: Path | None = None
    """For a file: the run whose data to use; by default the one in whose directory it lies."""
    data_dir: str | None = None
    """Directory of the archives, if moved since training."""
    source: str | None = None
    """Where to download an archive from; without this and --data-dir nothing is downloaded."""
    device: Device = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Number format; see convmixer train --help."""
    engine: Engine = "auto"
    """How the model is executed; see convmixer train --help."""
    tta: Tta | None = None
    """Test-time augmentation to report beside the plain figures; by default what the run asks for."""
    batch_size: int | None = None
    """Batch size; by default as many images as suit the device."""
    json: bool = False
    """Print the figures as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.inference.evaluate import write_evaluation

        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size: {self.batch_size} is out of range; give at least 1.")
        evaluation = self._evaluation()
        if evaluation.another_data_set:
            ERRORS.print(
                f"{evaluation.dataset} is another data set than the one that the run was trained on.",
                style="yellow",
                highlight=False,
                markup=False,
            )
        _say_unfinished(self.model, evaluation.unfinished_epoch)
        if self.json:
            print_json(evaluation.to_dict())
        else:
            _print_evaluation(evaluation)
        if evaluation.runtime:  # a file has no directory to keep it in
            return 0
        try:
            files = write_evaluation(evaluation)
        except (OSError, InputError) as error:  # the figures are printed
            raise InputError(
                f"{self.model}: the evaluation could not be kept ({str(error).rstrip('.')}); allow writing there, or "
                "copy the run to where it is allowed."
            ) from None
        if not self.json:
            ERRORS.print("Written: " + ", ".join(str(file) for file in files))
        return 0

    def _evaluation(self) -> RunEvaluation:
        from convmixer.inference.model_file import is_model_file

        places: dict[str, Any] = {"dataset": self.dataset, "data_dir": self.data_dir, "source": self.source}
        if is_model_file(self.model):
            from convmixer.inference.evaluate_file import evaluate_file

            _check_cpu(self.model, self.device)
            for flag, value in (("--precision", self.precision), ("--engine", self.engine)):
                if value != "auto":
                    raise InputError(f"{flag}: {self.model} is a file, whose runtime decides; leave the flag out.")
            return evaluate_file(
                self.model, self.split, run=self.data, tta=self.tta, batch_size=self.batch_size, **places
            )
        if self.data is not None:
            raise InputError("--data: is for model files, a run has data of its own; other ones go with --dataset.")
        from convmixer.inference.evaluate import evaluate_run

        return evaluate_run(
            self.model,
            self.split,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            tta=self.tta,
            batch_size=self.batch_size,
            **places,
        )


@dataclass(frozen=True)
class Predict:
    """Predict the classes of images with a run's weights, or with a file that convmixer export wrote."""

    model: tyro.conf.Positional[Path]
    """Run directory, or a file: .onnx, .xml (OpenVINO) or .safetensors."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders, or - for an image on stdin."""
    top_k: int = 3
    """How many classes to name for each image."""
    cam: Path | None = None
    """File, .png or .svg, for a picture of the images (48 at most) with their class activation maps: where in an image
    the evidence for the predicted class lies."""
    device: Device = "auto"
    """Where to run."""
    json: bool = False
    """Print a JSON object for each image, one a line."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 2 if an image could not be read."""
        from convmixer.inference.predict import Prediction, predict_images

        if not self.images:
            raise InputError("predict: no image given; name files or folders, or - for stdin.")
        if self.top_k < 1:
            raise InputError(f"--top-k: {self.top_k} is out of range; give at least 1.")
        check_figure_file("--cam", self.cam)
        if self.cam is not None and "-" in self.images:
            raise InputError("--cam: is drawn from files, and stdin is none; save the image to a file.")
        shown: list[Prediction] = []
        predictor = self._predictor()
        status, out = 0, Terminal(soft_wrap=True)
        for answer in predict_images(predictor, self.images, self.top_k):
            if not isinstance(answer, Prediction):
                ERRORS.print(answer.reason)
                status = 2
                continue
            shown += [answer] if len(shown) < _EXPLAINED else []
            ranking = list(zip(answer.classes, answer.probabilities, strict=True))
            if self.json:
                top = [{"class": name, "probability": p} for name, p in ranking]
                print(json.dumps({"image": answer.image, "top": top}))
            else:
                out.print(f"{answer.image}: " + ", ".join(f"{name} {p:.1%}" for name, p in ranking))
        if self.cam is not None and shown:
            from convmixer.inference.gallery import explained

            save_picture(explained(predictor, shown), self.cam)  # type: ignore[arg-type]
            ERRORS.print(f"Written: {self.cam}")
        return status

    def _predictor(self) -> Predictor:
        from convmixer.inference.model_file import is_model_file, open_model_file

        if is_model_file(self.model):
            if self.cam is not None:
                raise InputError(f"--cam: {self.model} keeps no feature maps; give the run directory.")
            _check_cpu(self.model, self.device)
            return open_model_file(self.model)
        from convmixer.inference.plan_predictor import PlanPredictor
        from convmixer.runs import RunDir

        if self.cam is None and (native := PlanPredictor.load(RunDir.existing(self.model), self.device)) is not None:
            return native
        from convmixer.inference.torch_predictor import load

        predictor = load(self.model, device=self.device)
        _say_unfinished(self.model, predictor.unfinished_epoch)
        return predictor


def _check_cpu(path: Path, device: Device) -> None:
    if device not in ("auto", "cpu"):
        raise InputError(f"--device: {path} is run on the CPU here; leave the flag out.")


def _say_unfinished(path: Path, epoch: int | None) -> None:
    if epoch is not None:
        from convmixer.runs import RunDir

        run = RunDir(path)
        ERRORS.print(
            f"{path}: the run is {run.status()}; these are the weights of epoch {epoch}, the best of "
            f"{len(run.metrics())} of {run.config().train.epochs}.",
            style="yellow",
            highlight=False,
            markup=False,
        )


def _print_evaluation(evaluation: RunEvaluation) -> None:
    from convmixer.utils.comparisons import accuracy_interval

    figures, console = evaluation.figures, Terminal()
    low, high = accuracy_interval(round(figures.accuracy * evaluation.images), evaluation.images)
    data = f"{evaluation.dataset}, another data set, " if evaluation.another_data_set else ""
    overall = Table(title=f"{evaluation.run}: {data}{evaluation.split}, {evaluation.images} images", show_header=False)
    overall.add_row("accuracy", f"{figures.accuracy:.2%} (95% interval {low:.2%} to {high:.2%})")
    if evaluation.accuracy_tta is not None:
        overall.add_row(f"accuracy, --tta {evaluation.tta}", percent(evaluation.accuracy_tta))
    overall.add_row(
        "balanced accuracy", f"{figures.balanced_accuracy:.2%} (mean recall; macro F1 {figures.macro_f1:.4f})"
    )
    overall.add_row("constant answer", f"{figures.majority_baseline:.2%} accuracy")
    if len(figures.per_class) > 5:
        overall.add_row("top-5 accuracy", percent(figures.top5_accuracy))
    overall.add_row("loss", f"{figures.loss:.4f}")
    overall.add_row("expected calibration error", f"{figures.expected_calibration_error:.4f}")
    if scaling := evaluation.temperature_scaling:
        after = f"loss {scaling.loss:.4f}, calibration error {scaling.expected_calibration_error:.4f}"
        fitted = f"temperature {scaling.temperature:.3g} from {scaling.validation_images:,} validation images"
        overall.add_row("temperature scaling", f"{after} ({fitted})")
    where = " ".join(filter(None, (evaluation.device, evaluation.precision, evaluation.runtime)))
    overall.add_row("speed", f"{evaluation.images_per_second:.0f} img/s, {where}")
    console.print(overall)
    rows = [
        (row.name, str(row.images), percent(row.precision), percent(row.recall), f"{row.f1:.4f}")
        for row in figures.per_class
    ]
    print_table(("class", "images", "precision", "recall", "F1"), rows)
    if evaluation.gallery and (worst := evaluation.gallery.mistakes[:_MISTAKES]):
        total = evaluation.gallery.total_mistakes
        listed = [(c.file or str(c.index), c.true, c.predicted, f"{c.confidence:.1%}") for c in worst]
        title = f"most confident of {total:,} mistakes"
        print_table(("image", "true", "predicted", "confidence"), listed, title=title)
