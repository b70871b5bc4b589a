"""The competitors' processes: started, warmed up, and measured in turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from convmixer.bench.step import Job
from convmixer.bench.worker import serve

Measurement = tuple[list[float], int]
"""Seconds of each step, on a GPU of a mean one, and the peak of memory in bytes."""

_AT_ONCE = 4  # on a GPU; more would not fit its memory with certainty


class _Worker:
    """A competitor's process; ``skipped`` says why it does not take part."""

    def __init__(self, job: Job, time_limit: float) -> None:
        self.job, self.time_limit = job, time_limit
        self.skipped = ""
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(job, other_end))
        self.process.start()
        other_end.close()

    def begin_warm_up(self) -> None:
        self._deadline = time.monotonic() + self.time_limit
        self._request()

    def wait_until_warm(self) -> None:
        self.skipped = self._answer(self._deadline) or self.skipped

    def measure(self) -> Measurement | None:
        """None if it failed, or before; ``skipped`` says why."""
        if self.skipped:
            return None
        self._request()
        measurement: Measurement | None = self._answer(time.monotonic() + self.time_limit)
        return measurement

    def _request(self) -> None:
        with suppress(OSError):  # it has ended: there will be no answer
            self.connection.send(None)

    def _answer(self, deadline: float) -> Any:
        """None if there is none in time."""
        try:
            if self.connection.poll(max(0.0, deadline - time.monotonic())):
                return self.connection.recv()
            self.process.kill()
            self.skipped = f"it took more than {self.time_limit:g} s"
        except (EOFError, OSError):
            self.process.join()
            self.skipped = f"its process ended with status {self.process.exitcode}; see its messages"
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        self.connection.close()  # upon which it ends
        self.process.join()


def interleave(
    groups: Sequence[Sequence[Job]],
    rounds: int,
    time_limit: float,
    progress: Callable[[str], object] = lambda _: None,
) -> list[list[list[Measurement]]]:
    """The measurements of each job of each group, one for each round; none for a job that does not work here.

    The processes of all groups live at the same time, so that they get ready side by side. One is measured at a time:
    what slows the machine down slows a whole group.

    Args:
        groups: jobs to be compared with each other.
        rounds: measurements of each.
        time_limit: seconds in which a job has to become ready, and to be measured once.
        progress: is told about each group and about jobs that are left out.
    """
    with ExitStack() as stack:
        workers = [[stack.enter_context(_Worker(job, time_limit)) for job in jobs] for jobs in groups]
        _warm_up([worker for group in workers for worker in group])
        results: list[list[list[Measurement]]] = []
        for group in workers:
            job = group[0].job
            progress(f"{job.what} {job.model}, batch {job.batch_size}")
            taken = [[worker.measure() for worker in group] for _ in range(rounds)]
            for worker in group:
                if worker.skipped:
                    progress(f"left out {worker.job.setting}: {worker.skipped}")
            columns = zip(group, zip(*taken, strict=True), strict=True)
            results.append([[] if worker.skipped else [m for m in column if m] for worker, column in columns])
    return results


def _warm_up(workers: Sequence[_Worker]) -> None:
    """On a CPU one after the other. On a GPU those that compile work beside the others, and these in small groups."""
    compiling = [worker for worker in workers if worker.job.device == "cuda" and worker.job.how.compile]
    others = [worker for worker in workers if worker not in compiling]
    for worker in compiling:
        worker.begin_warm_up()
    at_once = 1 if not others or others[0].job.device == "cpu" else _AT_ONCE
    for start in range(0, len(others), at_once):
        some = others[start : start + at_once]
        for worker in some:
            worker.begin_warm_up()
        for worker in some:
            worker.wait_until_warm()
    for worker in compiling:
        worker.wait_until_warm()
