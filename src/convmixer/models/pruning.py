"""Smaller networks out of trained ones: fewer channels everywhere, or fewer blocks.

The residual sums and the depthwise convolutions tie the channels of all layers together: channel c of the stem is
channel c of every block and of the head. So a channel is kept or dropped as a whole, and what is left is an ordinary
ConvMixer with a smaller ``dim``. The narrow part of a bottleneck branch has channels of its own in every block.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from convmixer.config import ModelConfig
from convmixer.errors import InputError
from convmixer.models.factory import build_model

Axes = dict[str, dict[int, str]]
"""For each tensor of a state_dict, which of its axes run over channels that can be dropped, and over which group of
them: "" are the channels that all layers share, anything else is a block that has its own."""

_STEP = 8  # widths stay multiples of it, which kernels and int8 need to be fast
_OF_BLOCK = re.compile(r"blocks\.(\d+)\.")


def pruned_width(config: ModelConfig, ratio: float) -> int:
    """The ``dim`` that is left without the share ``ratio`` of the channels: a multiple of 8, where there are 16.

    Raises:
        InputError: a ratio that leaves no channel, or all of them.
    """
    if not 0 < ratio < 1:
        raise InputError(f"`ratio`: {ratio:g} is out of range; give a share between 0 and 1, such as 0.3.")
    factor = config.bottleneck_factor if config.branch == "bottleneck" else 1
    step = _STEP * factor if config.dim >= 2 * _STEP * factor else factor
    width = round(config.dim * (1 - ratio) / step) * step
    if not 0 < width < config.dim:
        left = "no channel" if width <= 0 else f"all {config.dim} channels"
        raise InputError(f"`ratio`: {ratio:g} of {config.dim} channels, in steps of {step}, leaves {left}.")
    return width


def pruned_depth(config: ModelConfig, ratio: float) -> int:
    """The ``depth`` that is left without the share ``ratio`` of the blocks.

    Raises:
        InputError: a ratio that leaves no block, or all of them.
    """
    left = config.depth - round(config.depth * ratio)
    if not 0 < ratio < 1 or not 0 < left < config.depth:
        raise InputError(
            f"`ratio`: {ratio:g} of {config.depth} blocks is {config.depth - left}; give a share that drops some, and "
            "leaves some."
        )
    return left


def channel_axes(config: ModelConfig, n_classes: int, channels: int, width: int) -> tuple[ModelConfig, Axes]:
    """The network that is left with ``width`` channels, and which axes of its tensors have fewer entries.

    Args:
        config: the architecture as it is.
        n_classes: outputs of the network.
        channels: of its images.
        width: the smaller ``dim``.

    Raises:
        InputError: a head or branch whose widths do not follow from ``dim``.
    """
    smaller = dataclasses.replace(config, dim=width)
    with torch.device("meta"):  # shapes only
        old, new = (build_model(c, n_classes, channels, "plain").state_dict() for c in (config, smaller))
    axes: Axes = {}
    for name, tensor in old.items():
        axes[name] = {}
        for axis, (before, after) in enumerate(zip(tensor.shape, new[name].shape, strict=True)):
            if (before, after) == (config.dim, width):
                axes[name][axis] = ""
            elif before != after:
                block = _OF_BLOCK.match(name)
                if block is None or before * width != after * config.dim:
                    raise InputError(f"{name}: its width does not follow from `dim`; only blocks of it can be dropped.")
                axes[name][axis] = block[0]
    return smaller, axes


def keep_channels(state: Mapping[str, Tensor], axes: Axes, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the channels that are not kept.

    Args:
        state: of the network as it is.
        axes: see :func:`channel_axes`.
        kept: for each group, the (n,) indices of its channels that stay, in their order.
    """
    result = {}
    for name, tensor in state.items():
        for axis, group in axes[name].items():
            tensor = tensor.index_select(axis, kept[group])
        result[name] = tensor.clone()
    return result


def most_important(importance: Mapping[str, Tensor], config: ModelConfig, width: int) -> dict[str, Tensor]:
    """For each group, the indices of the channels to keep: the same share of each, the most important ones."""
    return {
        group: values.topk(len(values) * width // config.dim).indices.sort().values
        for group, values in importance.items()
    }


def weight_importance(state: Mapping[str, Tensor], axes: Axes, *, norms: bool = False) -> dict[str, Tensor]:
    """How large each channel's weights are, for each group of channels (n,).

    Args:
        state: of the network.
        axes: see :func:`channel_axes`.
        norms: look at the factors γ of batch normalisation instead of the weights of convolutions and linear layers.

    Each tensor counts alike: the sum of its absolute values for a channel is divided by the mean over channels (L1:
    arXiv 1608.08710; γ: arXiv 1708.06519).
    """

    def values(name: str) -> Tensor | None:
        tensor = state[name]
        is_factor = name.endswith(".weight") and f"{name[:-6]}running_var" in state
        chosen = is_factor if norms else name.endswith(".weight") and tensor.dim() > 1
        return tensor.abs() if chosen else None

    return _summed({name: found for name in axes if (found := values(name)) is not None}, axes, normalised=True)


def gradient_importance(saliency: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """For each group of channels (n,), the sum of the squared products of weight and gradient (arXiv 1906.10771, 8).

    Args:
        saliency: those products, squared and summed over batches, by the name of the parameter.
        axes: see :func:`channel_axes`.
    """
    return _summed(saliency, axes, normalised=False)


def _summed(values: Mapping[str, Tensor], axes: Axes, *, normalised: bool) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in values.items():
        for axis, group in axes[name].items():
            others = [i for i in range(tensor.dim()) if i != axis]
            share = tensor.double().sum(others) if others else tensor.double()
            if normalised:
                share = share / share.mean().clamp_min(1e-30)
            result[group] = result.get(group, 0) + share
    return result


def keep_blocks(
    config: ModelConfig, state: Mapping[str, Tensor], kept: Sequence[int]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The network of some of its blocks, in their order: its architecture and its tensors."""
    kernels = [block.kernel_size for block in config.blocks()]
    smaller = dataclasses.replace(config, depth=len(kept), kernel_size=tuple(kernels[i] for i in kept))
    result = {name: tensor.clone() for name, tensor in state.items() if not name.startswith("blocks.")}
    for new, old in enumerate(kept):
        prefix = f"blocks.{old}."
        result |= {f"blocks.{new}.{n[len(prefix) :]}": t.clone() for n, t in state.items() if n.startswith(prefix)}
    return smaller, result
