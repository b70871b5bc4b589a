"""Muon: momentum whose matrices are made orthogonal before they are added to the weights.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), kellerjordan.github.io/posts/muon.
Here all weights of one shape are one stack, so that a step is a few batched products however deep the network is, and
nothing waits for the device: the learning rate may be a tensor there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from convmixer.runtime.device import has_bfloat16

_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # the quintic that grows small singular values fastest
_ITERATIONS = 5
_LARGE = 128  # sides from which on a CPU's bfloat16 products are faster than its float32 ones


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices with the singular vectors of those given and all singular values near 1 (about 0.7 to 1.2).

    Args:
        matrices: (G, M, N) float32.

    Returns:
        (G, M, N) float32; computed in bfloat16, which is enough for a direction, where that is faster: on a GPU, and
        on a CPU with instructions for it.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    halve = x.device.type == "cuda" or (x.shape[1] >= _LARGE and has_bfloat16(x.device))
    x = x.to(torch.bfloat16 if halve else torch.float32)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for the weights of pointwise and patch convolutions.

    Args:
        weights: parameters (M, C, k, k) float32, each seen as an (M, N) matrix with N = C·k·k.
        lr: length of a step in singular values of the update, times sqrt(max(1, M / N)) as in Jordan et al.
        momentum: how much of the mean of earlier gradients stays.
        weight_decay: the weights shrink by this, times ``lr``.
    """

    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves it to us to skip gradients that are not finite

    def __init__(self, weights: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        stacks: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for weight in weights:
            stacks[tuple(weight.shape)].append(weight)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([{"params": stack} for stack in stacks.values()], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients, which all have to be there; none where ``found_inf`` is set and not 0."""
        finite = None if (found := getattr(self, "found_inf", None)) is None else found == 0
        for group in self.param_groups:
            _update(group, self.state[group["params"][0]], finite)


def _update(group: dict[str, Any], state: dict[str, Tensor], finite: Tensor | None) -> None:
    """Updates a stack of equal-shaped weights; its momentum lies in ``state``, (G, M, N)."""
    weights, momentum, lr = group["params"], group["momentum"], group["lr"]
    grads = torch.stack([weight.grad.flatten(1) for weight in weights])
    before = state["momentum"] if "momentum" in state else torch.zeros_like(grads)
    mean = before.lerp(grads, 1 - momentum)
    update = orthogonalize(grads.lerp(mean, momentum)) * (lr * max(1.0, grads.shape[1] / grads.shape[2]) ** 0.5)
    update += torch.stack([weight.flatten(1) for weight in weights]) * (lr * group["weight_decay"])
    if finite is not None:
        mean, update = torch.where(finite, mean, before), torch.where(finite, update, 0.0)
    state["momentum"] = before.copy_(mean)  # in place: a captured graph of the step keeps its addresses
    torch._foreach_sub_(weights, [part.view_as(weight) for part, weight in zip(update, weights, strict=True)])
