"""``engine="auto"``: the engine that is measured to be the faster one, for this model, these images and this machine.

The measurement trains (or evaluates) a copy of the stem and one block on a few random images, once for each kind of
block in the model; it takes a fraction of a second, and is kept on disk. Work too small for it to matter is left to
the plain engine without measuring.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from convmixer.kernels import measurements, native, registered
from convmixer.models.engines import fast, plain
from convmixer.models.engines.units import Network
from convmixer.runtime import cuda_graph

logger = logging.getLogger("convmixer.models")

Choice = Literal["plain", "fast"]

SMALL_WORK = 2e7  # multiply-adds of a batch; below, all takes milliseconds
_PROBE_WORK = {"cpu": 1e9, "cuda": 2e10}  # multiply-adds of a measurement's forward pass, if one image has no more
_INFERENCE = 4  # times as many without gradients: a pass takes less time, and small ones stay in the caches
_UNFUSED = 4  # times as many without native kernels: what replaces them has costs that only large batches make up for
_PROBE_SECONDS = 0.2
_MARGIN = 0.95  # the fast engine has to be faster by this factor
_ENGINES: dict[str, ModuleType] = {"plain": plain, "fast": fast}

_known: dict[str, Choice] = {}


class AutoChoice:
    """The choices for one model, by state of model and input."""

    def __init__(self) -> None:
        self.choices: dict[tuple[object, ...], Choice] = {}
        self.last: Choice = "plain"

    def choose(self, network: Network, x: Tensor, captured: bool = False) -> Choice:
        """The engine for a forward pass on x, with gradients if they are enabled. Measures at most once.

        Where nothing can be measured, which is under a compiler, in a CUDA graph and under a dispatch mode such as a
        FLOP counter's, it is the last choice. ``captured``: passes will be replayed from a CUDA graph.
        """
        if x.device.type not in _PROBE_WORK:
            return "plain"
        if torch.compiler.is_compiling() or registered.is_observed() or _is_capturing():
            return self.last if fast.can_run(network, x) else "plain"
        state = _state(network, x, captured)
        chosen = self.choices.get(state)
        if chosen != "plain" and not fast.can_run(network, x):  # asked each time: the model may have been changed
            return "plain"
        if chosen is None:
            chosen = self.choices[state] = _faster(network, x, captured)
        self.last = chosen
        return chosen


class Probe(nn.Module):
    """Stem, one block, and pooling of a network."""

    def __init__(self, network: Network, block: nn.Module) -> None:
        super().__init__()
        self.stem = network.stem
        self.blocks = nn.Sequential(block)
        self.pooling = network.pooling
        self.training = network.training


class _LocalBatchNorm(nn.BatchNorm2d):
    """Stands for a SyncBatchNorm in a measurement: runs as a module as well, but does not wait for other processes."""


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _state(network: Network, x: Tensor, captured: bool) -> tuple[object, ...]:
    """What the choice depends on, for one model."""
    autocast = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type)
    modes = network.training, torch.is_grad_enabled(), captured
    return x.shape, x.dtype, x.device, autocast, *modes, torch.get_num_threads()


def _faster(network: Network, x: Tensor, captured: bool) -> Choice:
    if sum(_work(network, block, x) for block in network.blocks) * x.shape[0] < SMALL_WORK:
        return "plain"
    kinds: dict[str, list[nn.Module]] = {}  # blocks by what is measured for them
    for block in network.blocks:
        kinds.setdefault(_key(network, block, x) + (" graph" if captured else ""), []).append(block)
    key = " + ".join(f"{len(blocks)} × {kind}" for kind, blocks in kinds.items())
    if key not in _known:
        total = {"plain": 0.0, "fast": 0.0}
        for kind, blocks in kinds.items():
            timings = measurements.recall(kind)
            if timings is None:
                _say_once()
                timings = measure(Probe(network, blocks[0]), x[: _images(network, blocks[0], x)], captured)
                measurements.keep(kind, timings)
            total = {name: seconds + len(blocks) * timings[name] for name, seconds in total.items()}
        _known[key] = "fast" if total["fast"] < _MARGIN * total["plain"] else "plain"
        logger.debug("engine %s for %s: %s", _known[key], key, total)
    return _known[key]


@functools.cache
def _say_once() -> None:
    logger.info(
        "engine auto: compiles its kernels and times the plain and the fast engine, once for each kind of model and "
        "input on this machine; CONVMIXER_ENGINE=plain or convmixer.set_default_engine('plain') turns it off"
    )


def measure(network: Probe, x: Tensor, captured: bool = False) -> dict[str, float]:
    """Seconds of a pass with either engine on a copy of the network; leaves it and the random state as they are."""
    gradients = torch.is_grad_enabled()

    def run(name: Choice) -> None:
        trial.zero_grad()
        result: Tensor = _ENGINES[name].pooled(trial, images)
        if gradients and result.requires_grad:
            result.float().square().mean().backward()

    def candidate(name: Choice) -> Callable[[], object]:
        if not x.is_cuda:
            return lambda: run(name)
        launch = cuda_graph.captured(lambda: run(name)) if captured else lambda: run(name)

        def finish() -> None:
            launch()
            torch.cuda.synchronize(x.device)

        return finish

    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        trial = copy.deepcopy(network)
        for module in trial.modules():
            if type(module) is nn.SyncBatchNorm and module.training:
                module.__class__ = _LocalBatchNorm  # type: ignore[assignment]
        images = torch.rand(x.shape, dtype=x.dtype, device=x.device)
        return measurements.interleaved(
            {"plain": candidate("plain"), "fast": candidate("fast")}, rounds=3, seconds=_PROBE_SECONDS
        )


def _work(network: Network, block: nn.Module, x: Tensor) -> float:
    """Multiply-adds of a block's forward pass for one image."""
    stride = next((m.stride for m in network.stem.modules() if isinstance(m, nn.Conv2d)), (1, 1))
    weights = sum(p.numel() for p in block.parameters() if p.dim() == 4)
    return float(weights * (x.shape[2] // stride[0]) * (x.shape[3] // stride[1]))


def _images(network: Network, block: nn.Module, x: Tensor) -> int:
    """How many images to measure a block with."""
    limit = _PROBE_WORK[x.device.type] * (1 if torch.is_grad_enabled() else _INFERENCE)
    if x.device.type == "cpu" and native.library() is None:
        limit *= _UNFUSED
    images = max(1, int(limit / max(_work(network, block, x), 1.0)))
    if x.shape[0] > images:
        images = 1 << (images.bit_length() - 1)
    return min(images, x.shape[0])


def _key(network: Network, block: nn.Module, x: Tensor) -> str:
    sizes = [
        ",".join("x".join(map(str, p.shape)) for p in m.parameters() if p.dim() == 4) for m in (network.stem, block)
    ]
    norms = {type(m).__name__ for m in block.modules() if "Norm" in type(m).__name__}
    mode = "train" if torch.is_grad_enabled() else "infer"
    mode += "-batchstat" if network.training else ""
    size = "x".join(map(str, (_images(network, block, x), *x.shape[1:])))
    where = torch.cuda.get_device_name(x.device) if x.is_cuda else f"t{torch.get_num_threads()}"
    return f"{mode} {fast.storage_dtype(network, x)} {size} {' '.join(sizes)} {'+'.join(sorted(norms))} {where}"
