"""The competitors' processes: started, warmed up, and measured in turns."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from convmixer.bench.step import Job

Measurement = tuple[float, int]
"""Seconds of a step, and the peak of memory in bytes."""

_AT_ONCE = 4  # on a GPU; more would not fit its memory with certainty


class _Worker:
    """A competitor's process; ``skipped`` says why it does not take part."""

    def __init__(self, job: Job, time_limit: float) -> None:
        self.job, self.time_limit = job, time_limit
        self.skipped = ""
        command = [sys.executable, "-W", "ignore", "-m", "convmixer.bench.worker", job.to_json()]
        environment = dict(os.environ)
        if job.device == "cuda":  # many processes compile side by side: none needs helpers of its own
            environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def begin_warm_up(self) -> None:
        self._deadline = time.monotonic() + self.time_limit
        self._request()

    def wait_until_warm(self) -> None:
        answer = self._answer(self._deadline)
        self.skipped = self.skipped or str(answer.get("skip", ""))

    def measure(self) -> Measurement | None:
        """None if it failed, or before; ``skipped`` says why."""
        if self.skipped:
            return None
        self._request()
        answer = self._answer(time.monotonic() + self.time_limit)
        return None if self.skipped else (float(answer["seconds"]), int(answer["peak_bytes"]))

    def _request(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: there will be no answer
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def _answer(self, deadline: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.process.kill()
            self.skipped = f"it took more than {self.time_limit:g} s"
            return {}
        if not line:
            self.skipped = f"its process ended with status {self.process.wait()}; see its messages"
            return {}
        content: dict[str, Any] = json.loads(line)
        return content

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put("")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # upon which it ends
        self.process.wait()
        self._listener.join()


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
