"""A PyTorch model as a predictor: one that is being trained, or a run's selected weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from convmixer.config import Device, Engine, Precision
from convmixer.data import DatasetInfo
from convmixer.data.batches import Normalize
from convmixer.errors import InputError
from convmixer.inference.deployed import Deployed
from convmixer.inference.predict import Picture, Prediction, predict
from convmixer.inference.predictor import ImageInput
from convmixer.models import ConvMixer, build_model, load_weights
from convmixer.models.weights import describe_mismatch
from convmixer.runs import RunDir, Status
from convmixer.runs.checkpoint import DamagedCheckpointError, another_run, load_checkpoint
from convmixer.runtime.device import autocast, choose_device, choose_precision

_CPU_BATCH, _GPU_BATCH = 500, 2500  # launching operations takes a GPU's time
_ENDED: tuple[Status, ...] = ("finished", "diverged", "pruned")  # nothing is left to resume


@dataclass(frozen=True)
class TorchPredictor:
    """A model on a device, with what it was trained on."""

    deployed: Deployed
    info: DatasetInfo
    """Of the data: classes, size, normalisation."""
    device: torch.device
    precision: torch.dtype
    """Of autocast."""
    name: str = ""
    unfinished_epoch: int | None = None
    """Epoch of the weights, where they come from the checkpoint of a run that has not finished."""

    @classmethod
    def load(
        cls, run: RunDir, device: Device = "auto", precision: Precision = "auto", engine: Engine = "auto"
    ) -> TorchPredictor:
        """The model in a run directory: the selected weights, before the end of the run those of its best epoch so far.

        Raises:
            InputError: there are no weights yet, or no such device.
        """
        config, info = run.config(), run.dataset()
        where = choose_device(device)
        model = build_model(config.architecture, len(info.classes), info.channels, engine)
        epoch = _load_best_weights(model, run)
        layout = torch.channels_last if config.train.channels_last else torch.preserve_format
        model.to(where, memory_format=layout).eval().fuse()  # type: ignore[call-overload]
        deployed = Deployed(model, Normalize(info, where, config.train.channels_last))
        return cls(deployed, info, where, choose_precision(precision, where), str(run.path), epoch)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.classes

    @property
    def input(self) -> ImageInput:
        """The images that the model was trained on."""
        return ImageInput(self.info.image_size, self.info.channels)

    @property
    def batch_size(self) -> int:
        """As many images as suit the device."""
        return _CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) uint8 → (N, K) float32, in evaluation mode."""
        if self.deployed.training or self.deployed.model.training:
            self.deployed.eval()  # visits every module, which would be a sixth of the time of one small image
        pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode(), autocast(self.device, self.precision):
            return self.deployed(pixels.to(self.device)).float().cpu().numpy()  # type: ignore[no-any-return]

    def predict(self, images: Picture | Iterable[Picture], top_k: int = 3) -> list[Prediction]:
        """The most probable classes of images of any size; see :func:`convmixer.inference.predict.predict`."""
        return predict(self, images, top_k)


def _load_best_weights(model: ConvMixer, run: RunDir) -> int | None:
    """Loads them; returns their epoch if they are a checkpoint's, because the run has not finished."""
    if run.has_weights():
        load_weights(model, run.weights)
        return None
    status = run.status()
    try:
        state, _ = load_checkpoint(run.path)
    except DamagedCheckpointError as error:
        raise InputError(f"{error}; train again, into another --out.") from None
    if state is None or not state["best"]:
        what = "train again, into another --out" if status in _ENDED else "continue it with --resume"
        raise InputError(f"{run.path}: has no weights of a finished epoch; the run is {status}, {what}.")
    differences = another_run(state, run.config())
    if differences or state.get("fingerprint", fingerprint := run.dataset().fingerprint) != fingerprint:
        raise InputError(
            f"{run.path}: the checkpoint is of another run ({differences or 'other images'}); put back the run's own."
        )
    if mismatch := describe_mismatch(model.state_dict(), state["best"]):
        raise InputError(f"{run.path}: the checkpoint does not fit config.json: {mismatch}.")
    model.load_state_dict(state["best"])
    return int(state["position"]["best_epoch"])


def load(
    run: str | Path, *, device: Device = "auto", precision: Precision = "auto", engine: Engine = "auto"
) -> TorchPredictor:
    """A run's selected weights, ready to predict: ``load("my-run").predict("cat.jpg")``.

    Args:
        run: the run directory.
        device: where to compute.
        precision: number format of convolutions and matrix products.
        engine: how the model is executed.

    Raises:
        InputError: not a run directory, no weights in it yet, or no such device.
    """
    return TorchPredictor.load(RunDir.existing(run), device, precision, engine)
