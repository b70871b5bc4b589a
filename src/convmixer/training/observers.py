"""What watches a training run: one observer, which may be several. The loop itself knows no file and no terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convmixer.errors import Interrupted
from convmixer.runs import EpochRecord, RunDir, Summary
from convmixer.runs.checkpoint import save_checkpoint
from convmixer.runtime.signals import Interruption


class PrunedError(Exception):
    """An observer ended the run before its last epoch; the message says why."""


@dataclass(frozen=True)
class Progress:
    """Where a run is within an epoch."""

    epoch: int
    """From 1."""
    step: int
    """Finished steps of this epoch."""
    loss: float
    """Mean over these steps."""
    accuracy: float
    """Of the training images in these steps, a fraction."""
    images_per_second: float


class RunObserver:
    """Does nothing at any event; subclasses override what they are interested in. All calls come from one thread."""

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """The run begins, or goes on after the epochs in ``records``."""

    def on_step(self, progress: Progress) -> None:
        """Steps are finished: every one on a CPU, several at a time on a GPU, which does not wait for the host."""

    def on_checkpoint(self, state: dict[str, Any]) -> None:
        """There is something to continue from: tensors in use, not copies, and plain values."""

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch is finished and evaluated, and its checkpoint, if one was due, is written."""

    def on_end(self) -> None:
        """The loop is left, whatever the reason."""

    def on_summary(self, summary: Summary) -> None:
        """The run has ended, and its files are written; not told of a run that is interrupted or crashed."""

    def should_stop(self) -> Interrupted | PrunedError | None:
        """What to end the run with, if anything; asked before epochs and evaluation batches, and after steps."""
        return None


class Observers(RunObserver):
    """Several observers, told in their order."""

    def __init__(self, *observers: RunObserver) -> None:
        self.observers = observers

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_start(records)

    def on_step(self, progress: Progress) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_step(progress)

    def on_checkpoint(self, state: dict[str, Any]) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_checkpoint(state)

    def on_epoch(self, record: EpochRecord) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_epoch(record)

    def on_end(self) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_end()

    def on_summary(self, summary: Summary) -> None:
        """Tells all."""
        for observer in self.observers:
            observer.on_summary(summary)

    def should_stop(self) -> Interrupted | PrunedError | None:
        """The first reason that any has."""
        return next((reason for observer in self.observers if (reason := observer.should_stop())), None)


class RunWriter(RunObserver):
    """Keeps the checkpoint and ``metrics.jsonl`` of a run directory up to date."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.records = run, list[EpochRecord]()

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Takes up the earlier epochs; records of later ones, whose checkpoint is lost, are dropped."""
        self.records = list(records)
        if records or self.run.metrics():
            self.run.write_metrics(self.records)

    def on_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes ``checkpoint.pt``."""
        self.run.check_claim()
        save_checkpoint(self.run.path, state)

    def on_epoch(self, record: EpochRecord) -> None:
        """Writes ``metrics.jsonl``."""
        self.run.check_claim()
        self.records.append(record)
        self.run.write_metrics(self.records)


class SignalWatch(RunObserver):
    """Ends the run when SIGINT or SIGTERM has arrived."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def should_stop(self) -> Interrupted | None:
        """The signal, if one has arrived."""
        signum = self.interruption.signum
        return None if signum is None else Interrupted(signum)


class EpochWatcher(RunObserver):
    """Calls ``watch`` with every finished epoch, those before a resumption included.

    Args:
        watch: returns why the run is to end as pruned, or nothing to let it go on.
    """

    def __init__(self, watch: Callable[[EpochRecord], str | None]) -> None:
        self.watch, self.reason = watch, None

    reason: str | None

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Shows the earlier epochs, up to one that ends the run."""
        for record in records:
            if self.reason is None:
                self.on_epoch(record)

    def on_epoch(self, record: EpochRecord) -> None:
        """Shows the epoch."""
        self.reason = self.watch(record)

    def should_stop(self) -> PrunedError | None:
        """What ``watch`` returned for the last epoch."""
        return None if self.reason is None else PrunedError(self.reason)
