"""A model together with its normalisation: one module from pixels to logits, which can be exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convmixer.data.batches import Normalize


class Deployed(nn.Module):
    """Images (N, C, H, W) uint8 → logits (N, K), or probabilities, with the very normalisation of training.

    ``torch.export`` takes it; the model is then executed by PyTorch's own modules.

    Args:
        model: normalised images (N, C, H, W) float32 → logits.
        normalize: what the images went through in training.
        softmax: return probabilities, (N, K) float32, instead of logits.
    """

    def __init__(self, model: nn.Module, normalize: Normalize, *, softmax: bool = False) -> None:
        super().__init__()
        self.normalize, self.model, self.softmax = normalize, model, softmax

    def forward(self, images: Tensor) -> Tensor:
        """Pixels to logits or probabilities."""
        logits: Tensor = self.model(self.normalize(images))
        return torch.softmax(logits.float(), 1) if self.softmax else logits


class Answers(nn.Module):
    """Images (N, C, H, W) uint8 → logits and probabilities, (N, K) float32 each: what exported graphs compute."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels to both."""
        logits = self.deployed(images).float()
        return logits, torch.softmax(logits, 1)
