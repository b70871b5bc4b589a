"""One update of a model: forward and backward pass, optimiser, average."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.config import TrainConfig
from convmixer.models import ConvMixer
from convmixer.runtime.device import autocast
from convmixer.runtime.world import SingleProcess, World
from convmixer.training.ema import ModelEma
from convmixer.training.optimizers import build_optimizer
from convmixer.training.teacher import Teacher, distillation_loss


class TrainStep:
    """Everything that an update changes, and the update itself.

    On CUDA nothing in it waits for the device. All tensors stay where they are once the first update is done, so that
    the call can be captured in a graph for each shape of its arguments.

    Args:
        model: to be trained; it stays in the mode it is put into.
        settings: how.
        device: where the model is.
        precision: dtype of autocast; float16 scales the loss.
        world: the processes that share each batch.
        teacher: whose answers are learned beside the targets.
    """

    def __init__(
        self,
        model: ConvMixer,
        settings: TrainConfig,
        device: torch.device,
        precision: torch.dtype,
        world: World | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.settings, self.device, self.precision = model, settings, device, precision
        self.world, self.teacher = world or SingleProcess(), teacher
        self.parameters = list(model.parameters())
        self.optimizer = build_optimizer(model, settings)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.ema = ModelEma(model, settings.ema_decay) if settings.ema_decay > 0 else None

    def set_lr_scale(self, scale: float) -> None:
        """Sets every group's learning rate to its peak times ``scale``, for the updates that follow."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * scale)
            else:
                group["lr"] = peak * scale

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """One update. W ranks compute what one computes that accumulates W parts.

        Args:
            images: (B, C, H, W) float32, the whole batch on every rank.
            targets: (B,) int64 labels, or (B, K) float32 probabilities of the classes.

        Returns:
            (2,) float32: the mean loss, and how many answers were right; of probabilities the largest is the label.
        """
        batch_size, images, targets = len(images), self.world.shard(images), self.world.shard(targets)
        self.optimizer.zero_grad()
        total = torch.zeros(2, device=self.device)
        parts = self.settings.accumulate
        for part, goal in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            share = len(part) / batch_size
            with autocast(self.device, self.precision):
                logits = self.model(part)
                loss = F.cross_entropy(logits, goal, label_smoothing=self.settings.label_smoothing)
                if self.teacher is not None:
                    learned = distillation_loss(logits, self.teacher(part), self.settings.teacher_temperature)
                    loss = torch.lerp(loss.float(), learned, self.settings.teacher_weight)
                loss = loss * share
            labels = goal if goal.dim() == 1 else goal.argmax(1)
            total += torch.stack((loss.detach().float(), (logits.argmax(1) == labels).sum().float()))
            self.scaler.scale(loss).backward()
        self.world.sum_([total, *(weight.grad for weight in self.parameters if weight.grad is not None)])
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        return total

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; tensors are those in use, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.ema.state_dict() if self.ema is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` returned, on whichever device that was."""
        self.model.load_state_dict(state["model"])
        # The groups follow from the settings, and some of their entries from the device.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])
