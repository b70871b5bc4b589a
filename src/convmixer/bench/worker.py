"""One competitor in a process of its own."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from convmixer.bench import timing
from convmixer.bench.step import Job, step_of
from convmixer.runtime import cuda_graph

_TRIES, _PAUSE = 10, 2.0  # seconds; other processes that warm up give their GPU memory back soon


class Competitor:
    """A step that is built and warm."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        timing.prepare(job.threads, job.how.tuned, self.device)
        self.memory = timing.Memory(self.device)

    def become_ready(self) -> None:
        """Builds the network, compiles and warms up. Raises whatever keeps it from running here."""
        for attempt in range(_TRIES):
            try:
                self.step = step_of(self.job)
                self.steps = timing.warm_up(self._runnable(), self.device)
                break
            except torch.OutOfMemoryError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE)
            finally:
                self.memory.restart()

    def measure(self) -> tuple[list[float], int]:
        """Seconds of each step, and the peak of memory in bytes."""
        try:
            return self._measure(self._runnable())
        finally:
            self.memory.restart()

    def _runnable(self) -> Callable[[], object]:
        """The step, or a graph of it. A graph is made for each measurement, as it keeps its memory while it lives."""
        return cuda_graph.captured(self.step, warm_up=3) if self.job.how.graph else self.step

    def _measure(self, step: Callable[[], object]) -> tuple[list[float], int]:
        if self.device.type == "cuda":
            timing.warm_up(step, self.device)  # memory was given back after the last measurement
        return timing.seconds_of_each(step, self.steps, self.device), self.memory.peak_bytes()


def serve(job: Job, requests: Connection) -> None:
    """The main function of a competitor's process: answers every request until the other end is closed.

    The first answer is "" once the network is built and warm, or why the setting does not work here; all others are
    measurements.
    """
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no result
    warnings.simplefilter("ignore")
    if job.device == "cuda":  # many processes compile side by side: none needs helpers of its own
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    competitor = Competitor(job)
    with suppress(EOFError):
        requests.recv()
        try:
            competitor.become_ready()
        except Exception as error:
            if not isinstance(error, ImportError):
                traceback.print_exc()
            requests.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            return
        requests.send("")
        while True:
            requests.recv()
            requests.send(competitor.measure())
