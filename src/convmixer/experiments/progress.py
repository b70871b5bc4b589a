"""The progress of a study: a bar on terminals, which knows what each run costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from convmixer.config import RunConfig
from convmixer.experiments.matching import training_cost
from convmixer.runs import EpochRecord
from convmixer.runtime.progress import draws_bars


class StudyProgress:
    """Counts multiply-adds, so that the time left does not take all runs to be alike."""

    def __init__(self, console: Console, runs: Iterable[RunConfig]) -> None:
        self.bar = Progress(
            TextColumn("{task.percentage:.0f} %"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not draws_bars(console),
            speed_estimate_period=24 * 3600,
        )
        self.task = self.bar.add_task("runs", total=sum(map(training_cost, runs)))
        self._epochs: Counter[RunConfig] = Counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def epoch(self, config: RunConfig, record: EpochRecord) -> None:
        """Counts an epoch of a run."""
        self._epochs[config] += 1
        self.bar.advance(self.task, training_cost(config) / config.train.epochs)

    def ended(self, config: RunConfig) -> None:
        """Counts what is left of a run: all of it if another process trained it, nothing if this one did."""
        left = 1 - self._epochs[config] / config.train.epochs
        self.bar.advance(self.task, training_cost(config) * left)
