"""What an observer is told of a run, and that it can end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from convmixer.data import Dataset
from convmixer.errors import Interrupted
from convmixer.runs import EpochRecord
from convmixer.training.build import new_model
from convmixer.training.loop import DivergedError, TrainingLoop
from convmixer.training.observers import EpochWatcher, Observers, Progress, PrunedError, RunObserver
from tests.helpers.runs import tiny_config

CPU = torch.device("cpu")


class Diary(RunObserver):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.progress: list[Progress] = []

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        self.events.append(f"start after {len(records)}")

    def on_step(self, progress: Progress) -> None:
        self.events.append("step")
        self.progress.append(progress)

    def on_checkpoint(self, state: dict[str, Any]) -> None:
        self.events.append(f"checkpoint {len(state['records'])}")

    def on_epoch(self, record: EpochRecord) -> None:
        self.events.append(f"epoch {record.epoch}")

    def on_end(self) -> None:
        self.events.append("end")


def loop(digits: Dataset, *observers: RunObserver, **changes: Any) -> TrainingLoop:
    config = tiny_config(engine="plain", **changes)
    return TrainingLoop(config, digits, new_model(config, digits.info, CPU), CPU, Observers(*observers))


def test_events_come_in_their_order(digits: Dataset) -> None:
    diary = Diary()
    trained = loop(digits, RunObserver(), diary)
    trained.run()
    epochs = [["step"] * 3 + [f"checkpoint {n}", f"epoch {n}"] for n in (1, 2)]
    assert diary.events == ["start after 0", *epochs[0], *epochs[1], "end"]
    assert [(p.epoch, p.step) for p in diary.progress] == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    last, record = diary.progress[2], trained.state.records[0]
    assert (last.loss, last.accuracy) == (record.train_loss, record.train_accuracy)


def test_the_end_is_told_whatever_the_reason(digits: Dataset) -> None:
    diary = Diary()
    with pytest.raises(DivergedError):
        loop(digits, diary, lr=1e30, clip_norm=0.0, warmup_epochs=0.0).run()
    assert diary.events[-1] == "end"


def test_the_first_reason_of_several_counts(digits: Dataset) -> None:
    class Signalled(RunObserver):
        def should_stop(self) -> Interrupted:
            return Interrupted(15)

    with pytest.raises(Interrupted):
        loop(digits, Signalled(), EpochWatcher(lambda record: "enough")).run()


def test_a_watcher_sees_earlier_epochs_up_to_one_that_ends_the_run(digits: Dataset) -> None:
    trained = loop(digits, EpochWatcher(lambda record: "stop" if record.epoch == 3 else None), epochs=4)
    with pytest.raises(PrunedError, match="stop"):
        trained.run()
    seen: list[int] = []

    def watch(record: EpochRecord) -> str | None:
        seen.append(record.epoch)
        return "enough" if record.epoch == 2 else None

    again = loop(digits, EpochWatcher(watch), epochs=4)
    again.restore(trained.state.state_dict())
    with pytest.raises(PrunedError, match="enough"):
        again.run()
    assert seen == [1, 2]
    assert again.state.epoch == 3
