"""Updates replayed as CUDA graphs: the device gets a whole update at once instead of hundreds of single operations."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

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
        self._stream = torch.cuda.Stream(step.device)  # of eager updates, too: autograd remembers where it ran
        self._pool = torch.cuda.graph_pool_handle()  # one for all graphs, of which one runs at a time
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
            return self._eagerly(images, targets)
        for held, given in zip(captured.inputs, (images, targets), strict=True):
            held.copy_(given)
        captured.graph.replay()
        return captured.output.clone()

    def _eagerly(self, images: Tensor, targets: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self.step(images, targets)
        current.wait_stream(self._stream)
        return result

    def _capture(self, images: Tensor, targets: Tensor) -> _Captured | None:
        """Records an update without running it; None where that fails."""
        graph, inputs = torch.cuda.CUDAGraph(), (images.clone(), targets.clone())
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                output = self.step(*inputs)
        except RuntimeError as error:
            logger.warning("an update cannot be captured as a CUDA graph, it runs as single operations: %s", error)
            return None
        return _Captured(graph, inputs, output)
