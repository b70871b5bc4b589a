"""``engine="auto"``: the engine that is measured to be the faster one, for this model, these images and this machine.

The measurement trains (or evaluates) a copy of the stem and the first block on a few random images, takes a fraction
of a second, and is kept on disk. Work too small for it to matter is left to the plain engine without measuring.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from convmixer.kernels import measurements, native
from convmixer.models.engines import fast as engine
from convmixer.runtime import cuda_graph

if TYPE_CHECKING:
    from convmixer.models.convmixer import ConvMixer

logger = logging.getLogger("convmixer.models")

SMALL_WORK = 2e7  # multiply-adds of a batch; below, all takes milliseconds
_PROBE_WORK = {"cpu": 1e9, "cuda": 2e10}  # multiply-adds of a measurement's forward pass, if one image has no more
_INFERENCE = 4  # times as many without gradients: a pass takes less time, and small ones stay in the caches
_UNFUSED = 4  # times as many without native kernels: what replaces them has costs that only large batches make up for
_PROBE_SECONDS = 0.2
_MARGIN = 0.95  # the fast engine has to be faster by this factor

_known: dict[str, Literal["plain", "fast"]] = {}


def choose(model: ConvMixer, x: Tensor, captured: bool = False) -> Literal["plain", "fast"]:
    """Either "plain" or "fast", for a forward pass on x with gradients if they are enabled. Measures at most once.

    ``captured``: passes will be replayed from a CUDA graph.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():  # nothing can be measured in a graph
        return model.last_choice if engine.can_run(model, x) else "plain"
    if x.device.type not in _PROBE_WORK or torch.compiler.is_exporting():
        return "plain"
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():  # nor in a CUDA graph
        return model.last_choice if engine.can_run(model, x) else "plain"
    state = _state(model, x, captured)
    chosen = model.choices.get(state)
    if chosen != "plain" and not engine.can_run(model, x):  # asked each time: the model may have been changed
        return "plain"
    if chosen is None:
        chosen = model.choices[state] = _faster(model, x, captured)
    model.last_choice = chosen
    return chosen


def _state(model: ConvMixer, x: Tensor, captured: bool) -> tuple[object, ...]:
    """What the choice depends on, for one model."""
    autocast = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type)
    modes = model.training, torch.is_grad_enabled(), captured
    return x.shape, x.dtype, x.device, autocast, *modes, torch.get_num_threads()


def _faster(model: ConvMixer, x: Tensor, captured: bool) -> Literal["plain", "fast"]:
    images, work = _work(model, x)
    if work < SMALL_WORK:
        return "plain"
    key = _key(model, x, images) + (" graph" if captured else "")
    if key not in _known:
        timings = measurements.recall(key)
        if timings is None:
            timings = measure(model, x[:images], captured)
            measurements.keep(key, timings)
        _known[key] = "fast" if timings["fast"] < _MARGIN * timings["plain"] else "plain"
        logger.info("engine %s for %s: %s", _known[key], key, timings)
    return _known[key]


def measure(model: ConvMixer, x: Tensor, captured: bool = False) -> dict[str, float]:
    """Seconds of a pass through stem and first block with either engine; leaves model and random state as they are."""
    small = copy.copy(model)
    small._modules = {**model._modules, "blocks": nn.Sequential(model.blocks[0])}
    gradients = torch.is_grad_enabled()

    def run(name: Literal["plain", "fast"]) -> None:
        trial.set_engine(name)
        trial.zero_grad()
        result: Tensor = trial(images)
        if gradients and result.requires_grad:
            result.float().square().mean().backward()

    def candidate(name: Literal["plain", "fast"]) -> Callable[[], object]:
        if not x.is_cuda:
            return lambda: run(name)
        launch = cuda_graph.captured(lambda: run(name)) if captured else lambda: run(name)

        def finish() -> None:
            launch()
            torch.cuda.synchronize(x.device)

        return finish

    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        trial = copy.deepcopy(small)
        images = torch.rand(x.shape, dtype=x.dtype, device=x.device)
        return measurements.interleaved(
            {"plain": candidate("plain"), "fast": candidate("fast")}, rounds=3, seconds=_PROBE_SECONDS
        )


def _work(model: ConvMixer, x: Tensor) -> tuple[int, float]:
    """Images to measure with, and multiply-adds of the whole forward pass, both from the sizes of the first block."""
    weights = sum(p.numel() for p in model.blocks[0].parameters() if p.dim() == 4)
    positions = (x.shape[2] // model.patch_size) * (x.shape[3] // model.patch_size)
    work = weights * positions
    limit = _PROBE_WORK[x.device.type] * (1 if torch.is_grad_enabled() else _INFERENCE)
    if x.device.type == "cpu" and native.library() is None:
        limit *= _UNFUSED
    images = max(1, int(limit / work))
    if x.shape[0] > images:
        images = 1 << (images.bit_length() - 1)
    return min(images, x.shape[0]), float(work) * x.shape[0] * len(model.blocks)


def _key(model: ConvMixer, x: Tensor, images: int) -> str:
    block = ",".join("x".join(map(str, p.shape)) for p in model.blocks[0].parameters() if p.dim() == 4)
    mode = "train" if torch.is_grad_enabled() else "infer"
    mode += "-batchstat" if model.training else ""
    size = "x".join(map(str, (images, *x.shape[1:])))
    where = torch.cuda.get_device_name(x.device) if x.is_cuda else f"t{torch.get_num_threads()}"
    return f"{mode} {engine.storage_dtype(model, x)} {size} p{model.patch_size} {block} {where}"
