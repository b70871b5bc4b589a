"""Moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

from convmixer.models import ConvMixer


class ModelEma:
    """An exponential moving average of a model's parameters and batch normalisation statistics.

    The decay rises to its value as min(decay, (1 + t) / (10 + t)) over the updates t, so that the initial weights are
    soon forgotten (the rule of TensorFlow's ExponentialMovingAverage).

    Args:
        model: what is averaged; a copy of it carries the average.
        decay: how much of the average stays at an update, in (0, 1).
    """

    def __init__(self, model: ConvMixer, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = torch.zeros((), device=next(model.parameters()).device)
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's present weights into the average, without waiting for the device."""
        weight = 1.0 - ((self.updates + 1.0) / (self.updates + 10.0)).clamp(max=self.decay)
        averages, values = (list(side) for side in zip(*self._averaged, strict=True))
        steps = torch._foreach_sub(values, averages)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(averages, steps)
        for count, now in self._counters:
            count.copy_(now)
        self.updates += 1.0

    def state_dict(self) -> dict[str, Any]:
        """The averaged model's state and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.updates.copy_(state["updates"])
