"""Updates replayed as CUDA graphs: the device gets a whole update at once instead of hundreds of single operations."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from convmixer.training.step import TrainStep

logger = logging.getLogger("convmixer.training")

_EAGER = 3  # updates before the capture: libraries set themselves up, optimisers make their state


class GraphedStep:
    """A :class:`TrainStep` whose updates are captured once and then replayed.

    The first updates run as they are. One whose arguments have other shapes than the captured one's always does, and
    all do, after a logged line, where the capture fails.

    Args:
        step: on a CUDA device.
    """

    def __init__(self, step: TrainStep) -> None:
        self.step = step
        self._eager = _EAGER
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, Tensor]
        self._output: Tensor

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`TrainStep.__call__`."""
        if self._eager > 0:
            self._eager -= 1
            return self.step(images, targets)
        if self._graph is None and not self._capture(images, targets):
            self._eager = 1 << 62
            return self.step(images, targets)
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(self._inputs, (images, targets), strict=True)):
            return self.step(images, targets)
        assert self._graph is not None
        for held, given in zip(self._inputs, (images, targets), strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output.clone()

    def _capture(self, images: Tensor, targets: Tensor) -> bool:
        """Records an update without running it; returns whether that worked."""
        graph = torch.cuda.CUDAGraph()
        inputs = images.clone(memory_format=torch.preserve_format), targets.clone()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                output = self.step(*inputs)
        except RuntimeError as error:
            logger.warning("an update cannot be captured as a CUDA graph, it runs as single operations: %s", error)
            return False
        self._graph, self._inputs, self._output = graph, inputs, output
        return True
