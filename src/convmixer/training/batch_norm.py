"""Statistics of batch normalisation, estimated anew for an evaluation.

The running averages that evaluation uses follow the weights with a delay of some ten steps, so in a run of few steps
they still say what the network was at its beginning. Estimated from training images with the weights as they are, they
are right however few the steps were: "PreciseBN" in Wu and Johnson, "Rethinking 'Batch' in BatchNorm",
arXiv 2105.07576, section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from convmixer.config import TrainConfig
from convmixer.data.batches import seeded
from convmixer.models import ConvMixer

_STEPS = 40  # from which on running averages are as good; docs/LOG.md has what was measured
_IMAGES, _BATCH = 10_000, 500  # the paper finds 1,000 to 10,000 images enough, and large batches the better ones


def is_precise(settings: TrainConfig, steps_per_epoch: int) -> bool:
    """Whether a run evaluates with statistics that are estimated anew."""
    if settings.precise_bn is None:
        return settings.epochs * steps_per_epoch < _STEPS
    return settings.precise_bn


@torch.no_grad()
def with_precise_statistics(model: ConvMixer, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> ConvMixer:
    """A copy of a model, in evaluation mode, whose batch normalisations have the statistics of ``images``.

    They are mean and variance over all batches together; within a batch each layer sees what the layers before it
    make of that batch in training. Dropout and stochastic depth are off, and frozen parts keep their statistics. The
    model itself and the global generator stay as they are.

    Args:
        model: in any mode.
        images: (N, C, H, W) uint8, at least two; of more than 10,000 the same 10,000 are taken every time.
        normalize: from these to the model's input.
    """
    result = copy.deepcopy(model).train()
    norms = [m for m in result.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    result.eval()
    if len(images) > _IMAGES:
        images = images[torch.randperm(len(images), generator=seeded(0))[:_IMAGES].to(images.device)]
    momenta = [norm.momentum for norm in norms]
    totals = [torch.zeros(2, norm.num_features, dtype=torch.float64, device=images.device) for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # running statistics are then those of the last batch
    for batch in images.tensor_split(-(-len(images) // _BATCH)):
        result(normalize(batch))
        for total, norm in zip(totals, norms, strict=True):
            mean, variance = (statistic.double() for statistic in _running(norm))
            total += torch.stack((mean, variance + mean.square())) * (len(batch) / len(images))
    for norm, momentum, (mean, square) in zip(norms, momenta, totals, strict=True):
        for statistic, value in zip(_running(norm), (mean, square - mean.square()), strict=True):
            statistic.copy_(value)
        norm.momentum = momentum
    return result.eval()


def _running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance, which a normalisation that tracks them has."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
