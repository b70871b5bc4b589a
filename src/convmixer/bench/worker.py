"""One competitor in a process of its own: ``python -m convmixer.bench.worker JOB``, JOB a :class:`Job` as JSON.

It answers each line that it reads with a line. To the first, ``{"ready": true}`` once the network is built and warm, or
``{"skip": why}`` if the setting does not work here; to all others ``{"seconds": …, "peak_bytes": …}`` of a measurement.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable

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

    def measure(self) -> tuple[float, int]:
        """Seconds of a step, and the peak of memory in bytes."""
        try:
            return self._measure(self._runnable())
        finally:
            self.memory.restart()

    def _runnable(self) -> Callable[[], object]:
        """The step, or a graph of it. A graph is made for each measurement, as it keeps its memory while it lives."""
        return cuda_graph.captured(self.step, warm_up=3) if self.job.how.graph else self.step

    def _measure(self, step: Callable[[], object]) -> tuple[float, int]:
        if self.device.type == "cuda":
            timing.warm_up(step, self.device)  # memory was given back after the last measurement
        return timing.seconds_of(step, self.steps, self.device), self.memory.peak_bytes()


def main() -> None:
    """Serves measurements on standard input and output."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
        competitor = Competitor(Job.from_json(sys.argv[1]))
        sys.stdin.readline()
        try:
            competitor.become_ready()
        except Exception as error:
            if not isinstance(error, ImportError):
                traceback.print_exc()
            why = str(error).strip().partition("\n")[0]
            answers.write(json.dumps({"skip": f"{type(error).__name__}: {why}"}) + "\n")
            return
        answers.write(json.dumps({"ready": True}) + "\n")
        for _ in sys.stdin:
            seconds, peak_bytes = competitor.measure()
            answers.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}) + "\n")


if __name__ == "__main__":
    main()
