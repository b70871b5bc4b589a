"""Smaller networks out of trained ones: what is dropped, and that nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convmixer.config import ModelConfig
from convmixer.errors import InputError
from convmixer.models import build_model
from convmixer.models.pruning import (
    channel_axes,
    gradient_importance,
    keep_blocks,
    keep_channels,
    most_important,
    pruned_width,
    weight_importance,
)
from convmixer.parts.branches import BRANCHES
from convmixer.parts.heads import HEADS


def random_model(config: ModelConfig) -> torch.nn.Module:
    model = build_model(config, 3, 3, "plain").eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("running_var") else torch.randn_like(tensor))
    return model


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("head", ["linear", "lc"])  # rh normalises over the channels: their number is part of it
def test_channels_that_are_zero_everywhere_can_go_without_a_difference(branch: str, head: str) -> None:
    config = ModelConfig(dim=16, depth=2, kernel_size=(3, 5), patch_size=2, branch=branch, head=head)
    model, width = random_model(config), 8
    smaller, axes = channel_axes(config, 3, 3, width)
    groups = {group for of_tensor in axes.values() for group in of_tensor.values()}
    sizes = {group: 16 if group == "" else 8 for group in groups}
    kept = {group: torch.randperm(size)[: size // 2].sort().values for group, size in sizes.items()}
    state = model.state_dict()
    for name, tensor in state.items():
        for axis, group in axes[name].items():
            gone = torch.tensor([c for c in range(sizes[group]) if c not in kept[group]])
            if not name.endswith(("running_mean", "running_var")) and tensor.is_floating_point():
                tensor.index_fill_(axis, gone, 0.0)
    pruned = build_model(smaller, 3, 3, "plain").eval()
    pruned.load_state_dict(keep_channels(state, axes, kept))
    images = torch.randn(5, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-4, atol=1e-4)
    found = most_important(weight_importance(state, axes), config, width)
    assert all(torch.equal(found[group], kept[group]) for group in kept)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_every_part_can_be_pruned(branch: str, head: str) -> None:
    config = ModelConfig(dim=32, depth=2, kernel_size=3, patch_size=2, branch=branch, head=head)
    model, width = random_model(config), pruned_width(config, 0.5)
    smaller, axes = channel_axes(config, 3, 3, width)
    for norms in (False, True):
        importance = weight_importance(model.state_dict(), axes, norms=norms)
        kept = most_important(importance, config, width)
        build_model(smaller, 3, 3, "plain").load_state_dict(keep_channels(model.state_dict(), axes, kept))


def test_blocks_keep_their_kernels_and_the_rest_its_weights() -> None:
    config = ModelConfig(dim=8, depth=4, kernel_size=(3, 5, 7, 9), patch_size=2)
    model = random_model(config)
    smaller, state = keep_blocks(config, model.state_dict(), [0, 3])
    assert (smaller.depth, smaller.kernel_size) == (2, (3, 9))
    pruned = build_model(smaller, 3, 3, "plain").eval()
    pruned.load_state_dict(state)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        maps = model.blocks[3](model.blocks[0](model.stem(images)))  # type: ignore[operator]
        torch.testing.assert_close(pruned(images), model.forward_head(maps))  # type: ignore[operator]


def test_importance_by_gradients_is_the_sum_over_what_touches_a_channel() -> None:
    config = ModelConfig(dim=4, depth=1, kernel_size=3, patch_size=2)
    _, axes = channel_axes(config, 3, 3, 2)
    model = random_model(config)
    saliency = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    expected = torch.zeros(4, dtype=torch.float64)
    for name, values in saliency.items():
        for axis in axes[name]:
            for channel in range(4):
                expected[channel] += values.double().select(axis, channel).sum()
    torch.testing.assert_close(gradient_importance(saliency, axes)[""], expected)


@settings(max_examples=60)
@given(dim=st.integers(1, 512), ratio=st.floats(0.01, 0.99), branch=st.sampled_from(["depthwise", "bottleneck"]))
def test_a_width_is_smaller_and_possible_or_refused(dim: int, ratio: float, branch: str) -> None:
    dim *= 2 if branch == "bottleneck" else 1
    config = ModelConfig(dim=dim, depth=1, kernel_size=3, patch_size=2, branch=branch)
    try:
        width = pruned_width(config, ratio)
    except InputError:
        step = (2 if branch == "bottleneck" else 1) * (8 if dim >= (32 if branch == "bottleneck" else 16) else 1)
        assert round(dim * (1 - ratio) / step) * step in (0, dim) or dim * (1 - ratio) > dim - step / 2
        return
    assert 0 < width < dim
    dataclasses.replace(config, dim=width)
    assert abs(width - dim * (1 - ratio)) <= (8 if branch == "depthwise" else 16)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_share_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        pruned_width(ModelConfig(dim=64), ratio)
