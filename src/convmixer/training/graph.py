"""Updates replayed as CUDA graphs: the device gets a whole update at once instead of hundreds of single operations."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from convmixer.runtime import cuda_graph
from convmixer.training.step import TrainStep

logger = logging.getLogger("convmixer.training")

_EAGER = 3  # updates before the capture: libraries set themselves up, optimisers make their state


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor]
    output: Tensor


class GraphedStep:
    """A :class:`TrainStep` whose updates are captured, once for each shape of their arguments, and then replayed.

    The first updates of a shape run as they are, and all do, after a logged line, where a capture fails.

    Args:
        step: on a CUDA device.
    """

    def __init__(self, step: TrainStep) -> None:
        self.step = step
        self._stream = torch.cuda.Stream(step.device)
        self._pool = torch.cuda.graph_pool_handle()
        self._runs: Counter[tuple[object, ...]] = Counter()
        self._captured: dict[tuple[object, ...], _Captured | None] = {}

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`TrainStep.__call__`."""
        key = (images.shape, targets.shape, targets.dtype)
        self._runs[key] += 1
        if self._runs[key] > _EAGER and key not in self._captured:
            self._captured[key] = self._capture(images, targets)
        captured = self._captured.get(key)
        if captured is None:
            return cuda_graph.on_stream(self._stream, lambda: self.step(images, targets))
        for held, given in zip(captured.inputs, (images, targets), strict=True):
            held.copy_(given)
        captured.graph.replay()
        return captured.output.clone()

    def _capture(self, images: Tensor, targets: Tensor) -> _Captured | None:
        """Records an update without running it; None where that fails."""
        inputs = images.clone(), targets.clone()
        torch.cuda.synchronize()
        try:
            graph, output = cuda_graph.capture(lambda: self.step(*inputs), self._stream, self._pool)
        except RuntimeError as error:
            logger.warning("an update cannot be captured as a CUDA graph, it runs as single operations: %s", error)
            return None
        return _Captured(graph, inputs, output)
