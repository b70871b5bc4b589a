"""From a run's settings to the optimiser of its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convmixer.config import TrainConfig
from convmixer.errors import InputError
from convmixer.training.muon import Muon


def build_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that ``settings`` ask for, with peak learning rates in its groups.

    On CUDA it takes its steps without waiting for the device, and can be captured in a graph: learning rates are
    tensors there, to be filled in place. On a CPU they are numbers.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError("`freeze`: nothing is left to train; leave out a part, such as the head.")
    device = trained[0].device
    matrices = _matrices(model) if settings.optimizer == "muon" else []
    chosen = {id(matrix) for matrix in matrices}
    groups = _groups(model, [p for p in trained if id(p) not in chosen], settings)
    on_cuda, fused = device.type == "cuda", device.type in ("cpu", "cuda") or None
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=fused, capturable=on_cuda)
    if matrices:
        muon_lr = settings.muon_lr * settings.backbone_lr_scale  # heads have no convolutions
        muon = Muon(matrices, lr=muon_lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
        optimizer = CombinedOptimizer(optimizer, muon)
    if on_cuda:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=device)
    return optimizer


def _matrices(model: nn.Module) -> list[Tensor]:
    """The weights of convolutions that mix all channels: 1×1, and those of patches."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return [c.weight for c in convolutions if c.groups == 1 and c.weight.requires_grad]


def _groups(model: nn.Module, parameters: list[Tensor], settings: TrainConfig) -> list[dict[str, Any]]:
    """The groups that decay asks for; the backbone has its own where its learning rate is another one."""
    scale = settings.backbone_lr_scale
    if scale == 1:
        return _decay_groups(parameters, settings)
    head = {id(parameter) for name, parameter in model.named_parameters() if name.startswith("head.")}
    backbone = _decay_groups([p for p in parameters if id(p) not in head], settings)
    groups = [group | {"lr": settings.lr * scale} for group in backbone]
    return [g for g in groups + _decay_groups([p for p in parameters if id(p) in head], settings) if g["params"]]


def _decay_groups(parameters: list[Tensor], settings: TrainConfig) -> list[dict[str, Any]]:
    """One group, or the weights with decay and the biases and norms, which are the vectors, without."""
    if settings.decay_norms:
        return [{"params": parameters, "weight_decay": settings.weight_decay}]
    weights, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
    return [{"params": weights, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers, each with its own parameters, that step and are saved as one.

    Under a GradScaler they skip a step together where the gradient of any of them is not finite.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._step_supports_amp_scaling = all(getattr(part, "_step_supports_amp_scaling", False) for part in parts)
        self._share()

    def _share(self) -> None:
        """Makes the groups and the state of the parts those of the whole."""
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every part."""
        for part in self.parts:
            for name in ("found_inf", "grad_scale"):  # what a GradScaler hands to the optimiser it knows
                if hasattr(self, name):
                    setattr(part, name, getattr(self, name))
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what ``state_dict()`` returned."""
        super().load_state_dict(state_dict)
        self._share()
