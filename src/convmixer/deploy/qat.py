"""int8 in training: the network learns with the rounding that its 8-bit file will have.

Rounding takes place where the graph of :func:`~convmixer.deploy.quantize.write_int8` has QuantizeLinear: weights of
convolutions and linear layers per output channel, and the tensors that go into these and come out of them, for all
that read them. Gradients pass it straight through (Bengio et al., arXiv 1308.3432), but not where a value was cut off.
Biases, which have 32 bits in the file, stay as they are here; batch normalisation keeps its statistics.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.deploy.export import write_checked
from convmixer.deploy.formats import FORMATS
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.program_predictor import answers_of
from convmixer.models import load_weights
from convmixer.runtime.signals import Interruption
from convmixer.training.build import train_batches
from convmixer.training.optimizers import build_optimizer
from convmixer.training.schedule import lr_scale

WEIGHTS = "qat.safetensors"
"""In the pipeline's folder: what the training has led to."""
LR_SCALE = 0.01
"""Of the run's learning rate, at the beginning; it falls to 0."""
_BATCH = 64
_LOW, _HIGH = -128, 127
_QUANTIZED = (torch.ops.aten.conv2d, torch.ops.aten.linear)


def trained_in_int8(
    source: Source, config: RunConfig, dataset: Dataset, epochs: int, images: Tensor, folder: Path
) -> Source:
    """The network after training with 8-bit rounding, in float32; ``write_int8`` makes its file.

    Training is on the CPU, with the run's batches, augmentation and losses at :data:`LR_SCALE` of its learning rate
    (AdamW in place of Muon). The last weights are kept in the folder: where they are there already, they are taken.

    Args:
        source: the network to begin with; stays as it is.
        config: the run's settings, for this network's architecture.
        dataset: the run's data, of which only training images are used.
        epochs: over the training images.
        images: (N, C, H, H) uint8 training images, that the ranges of activations are taken from before each epoch.
        folder: the pipeline's.

    Raises:
        InputError: the network cannot be exported, or the loss is no longer finite.
        Interrupted: SIGINT or SIGTERM arrived; nothing is kept.
    """
    change = {"step": "qat", "epochs": epochs, "lr_scale": LR_SCALE}
    info = replace(source.info, changes=(*source.info.changes, change))
    result, file = Source(info, answers_of(info)), folder / WEIGHTS
    network = result.answers.deployed.model
    if file.exists():
        load_weights(network, file)
        return result
    rounded = Rounded(source)
    _train(rounded, source, config, dataset, epochs, images)
    network.load_state_dict(rounded.weights())
    kind = FORMATS["safetensors"]
    write_checked(file, kind, lambda where: kind.write(result, where), lambda _: None)
    return result


class Rounded(nn.Module):
    """A network in evaluation mode, normalised images (N, C, H, H) → logits (N, K), rounded as its int8 file will be.

    Args:
        source: the network; its weights are copied.

    Attributes:
        ranges: whether activations widen their ranges instead of being rounded; weights are not rounded either then.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        info, network = source.info, source.answers.deployed.model
        example = torch.zeros(2, info.channels, info.image_size, info.image_size)
        exported = torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
        self.graph = exported.module(check_guards=False)
        state = {name: value.clone() for name, value in network.state_dict().items()}
        self.graph.load_state_dict(state, assign=True)
        self._names = tuple(state)
        _insert(self.graph)
        for parameter in self.graph.parameters():
            parameter.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.graph(images)
        return logits

    def weights(self) -> dict[str, Tensor]:
        """The network's state, not rounded."""
        state = self.graph.state_dict()
        return {name: state[name].detach().clone() for name in self._names}

    @torch.no_grad()
    def take_ranges(self, images: Tensor) -> None:
        """Sets the ranges of activations to those that normalised images (N, C, H, H) have without rounding."""
        for module in self.modules():
            if isinstance(module, Activation):
                module.forget()
        with self._watching():
            for part in images.split(_BATCH):
                self(part)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        rounding = [module for module in self.modules() if isinstance(module, Activation | Weight)]
        for module in rounding:
            module.watching = True
        try:
            yield
        finally:
            for module in rounding:
                module.watching = False


class Activation(nn.Module):
    """A tensor rounded to 256 steps between the smallest and the largest value that were seen, and 0."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self.register_buffer("low", torch.zeros(()), persistent=False)
        self.register_buffer("high", torch.zeros(()), persistent=False)

    def forget(self) -> None:
        """Back to a range of 0 alone."""
        self.low.zero_()
        self.high.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if self.watching:
            self.low.copy_(torch.minimum(self.low, x.min()))
            self.high.copy_(torch.maximum(self.high, x.max()))
            return x
        step = (self.high - self.low) / (_HIGH - _LOW)
        step = torch.where(step < torch.finfo(step.dtype).tiny, torch.ones_like(step), step)
        zero = torch.round(_LOW - self.low / step).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, step, zero, _LOW, _HIGH)


class Weight(nn.Module):
    """A weight (out, …) rounded to 127 steps on either side of 0, for each output channel of its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = False

    def forward(self, weight: Tensor) -> Tensor:
        """Any shape to the same."""
        if self.watching:
            return weight
        step = weight.detach().flatten(1).abs().amax(1) / _HIGH
        step = torch.where(step < torch.finfo(step.dtype).tiny, torch.ones_like(step), step)
        zero = torch.zeros(len(step), dtype=torch.int32, device=step.device)
        return torch.fake_quantize_per_channel_affine(weight, step, zero, 0, -_HIGH, _HIGH)


def _insert(module: fx.GraphModule) -> None:
    """Puts the roundings into an exported graph."""
    graph = module.graph
    activations, weights = dict[fx.Node, None](), dict[fx.Node, None]()
    for node in graph.nodes:
        if node.op == "call_function" and getattr(node.target, "overloadpacket", None) in _QUANTIZED:
            given, weight = node.args[:2]
            assert isinstance(given, fx.Node)
            assert isinstance(weight, fx.Node)
            activations |= {given: None, node: None}
            weights[weight] = None
    places: list[tuple[fx.Node, nn.Module]] = [(node, Activation()) for node in activations]
    places += [(node, Weight()) for node in weights]
    for i, (node, made) in enumerate(places):
        name = f"rounding_{i}"
        module.add_submodule(name, made)
        with graph.inserting_after(node):
            rounded = graph.call_module(name, (node,))
        node.replace_all_uses_with(rounded, delete_user_cb=partial(operator.is_not, rounded))
    module.recompile()


def _train(rounded: Rounded, source: Source, config: RunConfig, dataset: Dataset, epochs: int, images: Tensor) -> None:
    run = config.train
    config = config.replace(
        epochs=epochs,
        lr=run.lr * LR_SCALE,
        optimizer="adamw" if run.optimizer == "muon" else run.optimizer,
        schedule="cosine",
        warmup_epochs=0,
        image_size_start=None,
        freeze="",
        init_from=None,
        teacher=None,
        backbone_lr_scale=1,
        channels_last=False,
    )
    settings, batches = config.train, train_batches(config, dataset, torch.device("cpu"))
    normalize = source.answers.deployed.normalize
    optimizer = build_optimizer(rounded, settings)
    step = 0
    with Interruption.watched() as interruption:
        for epoch in range(epochs):
            rounded.take_ranges(normalize(images))
            for pixels, targets in batches.epoch(epoch):
                interruption.check()
                loss = F.cross_entropy(rounded(pixels), targets, label_smoothing=settings.label_smoothing)
                if not loss.isfinite():
                    raise InputError(
                        f"--qat: the loss is {loss.item()} in epoch {epoch + 1} of the training for int8, which was "
                        "not kept; leave out --qat."
                    )
                optimizer.zero_grad()
                loss.backward()
                if settings.clip_norm:
                    nn.utils.clip_grad_norm_(rounded.parameters(), settings.clip_norm)
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * lr_scale(settings, step, len(batches))
                optimizer.step()
                step += 1
