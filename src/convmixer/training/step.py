"""One update of a model: forward and backward pass, optimiser, average."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.config import TrainConfig
from convmixer.models import ConvMixer
from convmixer.runtime.device import autocast
from convmixer.training.ema import Average
from convmixer.training.optimizers import build_optimizer


class TrainStep:
    """Everything that an update changes, and the update itself.

    On CUDA nothing in it waits for the device. All tensors stay where they are once the first update is done, so that
    the call can be captured in a graph for each shape of its arguments.

    Args:
        model: to be trained; it stays in the mode it is put into.
        settings: how.
        device: where the model is.
        precision: dtype of autocast; float16 scales the loss.
    """

    def __init__(self, model: ConvMixer, settings: TrainConfig, device: torch.device, precision: torch.dtype) -> None:
        self.model, self.settings, self.device, self.precision = model, settings, device, precision
        self.parameters = list(model.parameters())
        self.optimizer = build_optimizer(model, settings)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.average = Average(model, settings.ema_decay) if settings.ema_decay > 0 else None

    def set_learning_rate(self, factor: float) -> None:
        """Sets every group's learning rate to its peak times ``factor``, for the updates that follow."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """One update.

        Args:
            images: (B, C, H, W) float32.
            targets: (B,) int64 labels, or (B, K) float32 probabilities of the classes.

        Returns:
            (2,) float32: the mean loss, and how many answers were right; of probabilities the largest is the label.
        """
        self.optimizer.zero_grad()
        total = torch.zeros(2, device=self.device)
        parts = self.settings.accumulate
        for part, goal in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            share = len(part) / len(images)
            with autocast(self.device, self.precision):
                logits = self.model(part)
                loss = F.cross_entropy(logits, goal, label_smoothing=self.settings.label_smoothing) * share
            labels = goal if goal.dim() == 1 else goal.argmax(1)
            total += torch.stack((loss.detach().float(), (logits.argmax(1) == labels).sum().float()))
            self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return total

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; tensors are those in use, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` returned, on whichever device that was."""
        self.model.load_state_dict(state["model"])
        # The groups follow from the settings, and some of their entries from the device.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
