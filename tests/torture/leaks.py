"""Memory, file descriptors and threads of one process over 200 epochs, and over many readings."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.judge import Judgement, of_end
from tests.torture.sandbox import run
from tests.torture.worlds import make_data, without_pictures

_EPOCHS, _SETTLED = 200, 40
_MOST_GROWTH = 8 << 20


class Leaks:
    """See the module."""

    name, goal, share = "leaks", 2, 0.02

    def prepare(self, folder: Path) -> None:
        """Nothing to prepare."""

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """200 epochs; 60 reports and evaluations in one process."""
        if index > 1:
            return None
        make_data(folder)
        what, work = (("200 epochs", _epochs), ("60 evaluations and reports", _readings))[index]
        ended = run(work, folder, 240)
        judgement = of_end(ended) or _judge(ended.value or [])
        return Result(what, 1, ((what, judgement),))


def _judge(samples: list[dict[str, int]]) -> Judgement:
    if len(samples) < 2:
        return Judgement("leak", "nothing was measured")
    first, last = samples[0], samples[-1]
    told = ", ".join(f"{name} {first[name]:,} to {last[name]:,}" for name in first)
    grown = last["rss"] - first["rss"] > _MOST_GROWTH
    more = any(last[name] > first[name] for name in ("descriptors", "threads"))
    return Judgement("leak" if grown or more else "identical", told)


def _sample() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def _epochs() -> list[dict[str, int]]:
    from convmixer.training import train
    from convmixer.training.observers import EpochWatcher

    samples: list[dict[str, int]] = []
    without_pictures()

    def watch(record: Any) -> None:
        if record.epoch >= _SETTLED:
            samples.append(_sample())

    train(_settings(_EPOCHS), "run", observer=EpochWatcher(watch))
    return samples


def _readings() -> list[dict[str, int]]:
    from convmixer.inference import evaluate_run
    from convmixer.report import write_report
    from convmixer.training import train

    train(_settings(2), "run", artifacts=False)
    samples = []
    for number in range(60):
        evaluate_run("run", device="cpu", engine="plain")
        write_report("run", "report.json")
        if number >= 20:
            samples.append(_sample())
    return samples


def _settings(epochs: int) -> dict[str, Any]:
    size = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "batch_size": 12, "randaugment": 0}
    where = {"dataset": "folder:data", "device": "cpu", "engine": "plain", "track": "none"}
    return {**size, **where, "epochs": epochs}
