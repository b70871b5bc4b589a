"""A run's network with fewer channels or blocks: which ones to drop, judged by weights or on training images."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.config import ModelConfig
from convmixer.deploy.pipeline import Pipeline
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.deployed import Deployed
from convmixer.inference.program_predictor import answers_of
from convmixer.models import build_model
from convmixer.models.pruning import (
    channel_axes,
    gradient_importance,
    keep_blocks,
    keep_channels,
    most_important,
    pruned_depth,
    pruned_width,
    weight_importance,
)

_BATCH = 64


@dataclass(frozen=True)
class Samples:
    """Training images, to judge channels or blocks by, or to calibrate with."""

    images: Tensor
    """(N, C, H, H) uint8."""
    labels: Tensor
    """(N,) int64."""


def counts_left(config: ModelConfig, pipeline: Pipeline) -> list[int]:
    """How many channels, or blocks, are left after each step of a pipeline; none where it does not prune.

    Raises:
        InputError: a ratio that drops nothing or everything.
    """
    if pipeline.prune is None:
        return []
    count = pruned_width if pipeline.prune == "channels" else pruned_depth
    last, counts = count(config, pipeline.ratio), list[int]()
    for step in range(1, pipeline.prune_steps):
        with contextlib.suppress(InputError):  # a step that is too small to drop anything
            counts.append(count(config, 1 - (1 - pipeline.ratio) ** (step / pipeline.prune_steps)))
    return [*sorted({one for one in counts if one > last}, reverse=True), last]


def pruned(source: Source, pipeline: Pipeline, count: int, samples: Samples) -> Source:
    """The trained network without the least important of its channels or blocks, not trained any further.

    Args:
        source: the network as it is; stays as it is.
        pipeline: says what goes (channels, everywhere alike, so that ``dim`` becomes smaller; or blocks) and, for
            channels, what tells their importance; of blocks, the one goes whose loss harms least, one after the other.
        count: how many are left; see :func:`counts_left`.
        samples: training images; the criteria l1 and bn do not look at them.

    Raises:
        InputError: a part of the network whose width does not follow from ``dim``.
    """
    info, model, criterion = source.info, source.answers.deployed.model, pipeline.criterion
    config, state = info.architecture, dict(model.state_dict())
    change: dict[str, object] = {"step": "prune", "what": pipeline.prune, "left": count}
    if pipeline.prune == "blocks":
        smaller, state = keep_blocks(config, state, _useful_blocks(source, count, samples))
    else:
        change["criterion"] = criterion
        smaller, axes = channel_axes(config, len(info.classes), info.channels, count)
        if criterion == "taylor":
            importance = gradient_importance(_saliency(source.answers.deployed, samples), axes)
        else:
            importance = weight_importance(state, axes, norms=criterion == "bn")
        if not importance.keys() >= {group for of_tensor in axes.values() for group in of_tensor.values()}:
            raise InputError(f"--criterion: {criterion} says nothing of some channels of this network; choose l1.")
        state = keep_channels(state, axes, most_important(importance, config, count))
    result = replace(info, architecture=smaller, changes=(*info.changes, change))
    answers = answers_of(result)
    answers.deployed.model.load_state_dict(state)
    return Source(result, answers)


def _saliency(deployed: Deployed, samples: Samples) -> dict[str, Tensor]:
    """For each parameter, weight times gradient of the loss, squared, summed over batches."""
    model, result = deployed.model, dict[str, Tensor]()
    was_needed = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(True)
    for images, labels in zip(samples.images.split(_BATCH), samples.labels.split(_BATCH), strict=True):
        model.zero_grad()
        F.cross_entropy(deployed(images), labels).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                product = (parameter * parameter.grad).detach() ** 2
                result[name] = result.get(name, torch.zeros_like(product)) + product
    model.zero_grad()
    for parameter, needed in zip(model.parameters(), was_needed, strict=True):
        parameter.requires_grad_(needed)
    return result


def _useful_blocks(source: Source, count: int, samples: Samples) -> list[int]:
    """The indices of the blocks to keep."""
    config, info, deployed = source.info.architecture, source.info, source.answers.deployed
    kept, state = list(range(config.depth)), dict(deployed.model.state_dict())

    def loss(blocks: list[int]) -> float:
        smaller, own = keep_blocks(config, state, blocks)
        model = build_model(smaller, len(info.classes), info.channels, "plain").eval()
        model.load_state_dict(own)
        with torch.inference_mode():
            logits = torch.cat([model(deployed.normalize(part)) for part in samples.images.split(_BATCH)])
        return float(F.cross_entropy(logits, samples.labels))

    while len(kept) > count:
        kept = min(([b for b in kept if b != candidate] for candidate in kept), key=loss)
    return kept
