"""Capturing work as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def on_stream(stream: torch.cuda.Stream, run: Callable[[], T]) -> T:
    """Runs work on ``stream``, after what the current stream has to do and before what it is given next.

    Autograd remembers the stream: a backward pass is captured on the one that its warm-up ran on.
    """
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = run()
    current.wait_stream(stream)
    return result


def capture(run: Callable[[], T], stream: torch.cuda.Stream, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """Records work, on tensors that stay where they are, without doing it.

    Args:
        run: has run on ``stream`` before: libraries set themselves up, optimisers make their state.
        stream: to capture on.
        pool: memory shared with graphs of which one runs at a time, see ``torch.cuda.graph_pool_handle``.

    Returns:
        The graph, and the tensors that each replay fills.

    Raises:
        RuntimeError: something in it cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        output = run()
    return graph, output


def captured(run: Callable[[], object], warm_up: int = 1) -> Callable[[], None]:
    """``run`` as a CUDA graph, which the result replays; it is run ``warm_up`` times (at least 1) before."""
    stream = torch.cuda.Stream()
    for _ in range(warm_up):
        on_stream(stream, run)
    graph, _ = capture(run, stream)
    return graph.replay
