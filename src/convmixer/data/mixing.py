"""mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): batches whose images are made of two.

As in both papers one number, drawn from a beta distribution, holds for a whole batch, and so does CutMix's rectangle;
the partners are the batch in a random order. Both are the same change: in a rectangle, the whole image for mixup, an
image keeps a share of itself, none for CutMix, and its partner has the rest.

Mixing is not a :class:`~convmixer.data.transform.Transform`: it works on normalised float images and on their labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data.operations import copy_to_device
from convmixer.data.transform import Batch


@dataclass(frozen=True)
class MixParams:
    """Parameters of N images."""

    partner: Tensor
    """(N,) int64: index of the other image, relative to this one."""
    box: Tensor
    """(N, 4) int64: top, left, bottom and right of the rectangle that is mixed, of no size where nothing is."""
    kept: Tensor
    """(N,) float32: share of this image in the rectangle."""
    weight: Tensor
    """(N,) float32: of this image's label."""


@dataclass(frozen=True)
class Mixing:
    """mixup, CutMix, or for each batch one of them, chosen by a fair coin.

    Attributes:
        mixup: Both parameters of the beta distribution; 0 is off.
        cutmix: The same for CutMix.
        probability: That a batch is mixed at all.
        classes: Number of labels.
    """

    mixup: float
    cutmix: float
    probability: float
    classes: int

    @classmethod
    def of(cls, config: AugmentConfig, classes: int) -> Mixing | None:
        """What ``config`` asks for; None where labels stay labels."""
        if not (config.mixup or config.cutmix):
            return None
        return cls(config.mixup, config.cutmix, config.mix_probability, classes)

    def sample(self, batch: Batch) -> MixParams:
        """Parameters for the images of ``batch``, on the CPU."""
        count, size, generator = len(batch), batch.size, batch.generator
        mixed, coin, quantile, *centre = torch.rand(5, dtype=torch.float64, generator=generator).tolist()
        partner = torch.randperm(count, generator=generator) - torch.arange(count)
        cut = coin < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        parameter = self.cutmix if cut else self.mixup
        kept, box = float(betaincinv(parameter, parameter, quantile)), (0, 0, size, size)
        if cut:
            kept, box = 0.0, _rectangle(size, math.sqrt(1 - kept), centre)
        if mixed >= self.probability:
            box = (0, 0, 0, 0)
        area = (box[2] - box[0]) * (box[3] - box[1]) / size**2
        return MixParams(
            partner,
            torch.tensor(box).expand(count, -1),
            torch.full((count,), kept),
            torch.full((count,), 1 - area * (1 - kept)),
        )

    def mix(self, images: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
        """Mixed images and their targets; does not wait for the device.

        Args:
            images: (N, C, H, H) float32, already normalised; not modified.
            labels: (N,) int64.
            params: Of one batch, or of several concatenated.

        Returns:
            Images, contiguous, and targets (N, K) float32, each row with the sum 1.
        """
        partner = params.partner + torch.arange(len(params.partner))
        partner, box, kept, weight = copy_to_device([partner, params.box, params.kept, params.weight], images.device)
        place = torch.arange(images.shape[-1], device=images.device)
        top, left, bottom, right = box[:, :, None].unbind(1)
        rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)
        foreign = (rows[:, None, :, None] & columns[:, None, None, :]) * (1 - kept).view(-1, 1, 1, 1)
        images = images * (1 - foreign) + images.index_select(0, partner) * foreign
        targets = torch.zeros(len(labels), self.classes, device=labels.device)
        for label, part in ((labels, weight), (labels.index_select(0, partner), 1 - weight)):
            targets.scatter_add_(1, label[:, None], part[:, None])
        return images, targets


def _rectangle(size: int, side: float, centre: list[float]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a square about ``centre``, cut off at the image's edges; side as a fraction of 1.

    Rounded as the paper's code does it.
    """
    half = int(size * side) // 2
    row, column = (int(size * place) for place in centre)
    return max(0, row - half), max(0, column - half), min(size, row + half), min(size, column + half)
