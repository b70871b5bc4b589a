"""Capturing work as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(run: Callable[[], object], warm_up: int = 1) -> Callable[[], None]:
    """``run`` as a CUDA graph, which the result replays.

    Args:
        run: work on tensors that stay where they are. It is run ``warm_up`` times before it is captured, on the same
            stream, which the backward pass of autograd has to be captured on.
        warm_up: at least 1: libraries set themselves up, optimisers make their state.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay
