"""From a model and images to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from convmixer.config import Device, Engine, Precision
from convmixer.data import DatasetInfo, Split
from convmixer.data.batches import Normalize, in_order
from convmixer.errors import InputError
from convmixer.inference.tta import View, itself
from convmixer.models import build_model, load_weights
from convmixer.runs import RunDir, Status
from convmixer.runtime.device import autocast, choose_device, choose_precision

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
