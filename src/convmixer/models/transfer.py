"""Trained weights as the start of another network: what fits is taken over, what cannot fit is refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convmixer.errors import InputError
from convmixer.models.convmixer import ConvMixer
from convmixer.models.weights import describe_mismatch

_FIRST = "stem.0.weight"


@dataclass(frozen=True)
class Transferred:
    """What became of the weights."""

    head_kept: bool
    """Whether the head was taken over; otherwise it has fresh weights."""
    channels: tuple[int, int]
    """Image channels of the weights, and of the model."""

    def __str__(self) -> str:
        old, new = self.channels
        adapted = f", the patch embedding adapted from {old} to {new} channels" if old != new else ""
        return f"{'all weights' if self.head_kept else 'a new head'}{adapted}"


def transfer_weights(model: ConvMixer, weights: dict[str, Tensor], *, keep_head: bool = True) -> Transferred:
    """Copies ``weights`` into ``model``, as far as that is standard for fine-tuning.

    The head is taken over if ``keep_head`` is set and its shapes fit; it keeps its fresh weights otherwise. The patch
    embedding of coloured images is summed over their channels for grey ones, which gives a grey image the same result
    as its three equal channels had; that of grey images is repeated, a third each, for coloured ones.

    Args:
        model: changed only if everything else fits.
        weights: names and tensors in our layout, see :func:`convmixer.models.weights.to_own_layout`.
        keep_head: whether the classes are those that the weights were trained on.

    Raises:
        InputError: other sizes of patches, kernels or dimensions, or other channels than from 1 to 3 or 3 to 1.
    """
    own = model.state_dict()
    if _FIRST not in weights:
        raise InputError(f"`init_from`: the weights have no {_FIRST}; they are not those of a ConvMixer.")
    channels = weights[_FIRST].shape[1], own[_FIRST].shape[1]
    given = dict(weights)
    if channels[0] != channels[1]:
        given[_FIRST] = _adapted(weights[_FIRST], channels[1])
    fresh = _head(own)
    keep = keep_head and not describe_mismatch(fresh, _head(given))
    if not keep:
        given = {name: tensor for name, tensor in given.items() if not name.startswith("head.")} | fresh
    if mismatch := describe_mismatch(own, given):
        raise InputError(
            f"`init_from`: these weights do not fit the model: {mismatch}; give the model they were trained with "
            "(`model`, `dim`, `depth`, `kernel_size`, `patch_size`, `branch`)."
        )
    model.load_state_dict(given)
    return Transferred(keep, channels)


def _head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith("head.")}


def _adapted(weight: Tensor, channels: int) -> Tensor:
    """The weight (h, C, p, p) of a patch embedding for images with another number of channels."""
    given = weight.shape[1]
    if (given, channels) == (3, 1):
        return weight.sum(1, keepdim=True)
    if (given, channels) == (1, 3):
        return torch.cat([weight / 3] * 3, dim=1)
    raise InputError(
        f"`init_from`: the weights are for images of {given} channels, these have {channels}; only 1 and 3 are adapted."
    )
