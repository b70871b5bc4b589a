"""The bar reaches its end, however the runs came to theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from convmixer.experiments.matching import training_cost
from convmixer.experiments.progress import StudyProgress
from convmixer.runs import EpochRecord
from convmixer.search.pool import RunPool
from tests.helpers.runs import tiny_config


def test_epochs_and_runs_add_up_to_the_whole(tmp_path: Path) -> None:
    runs = [tiny_config(epochs=2), tiny_config(epochs=3, dim=16), tiny_config(seed=1)]
    pool = RunPool(tmp_path)
    pool.run(runs[2])  # by another process, as it were
    record = EpochRecord(epoch=1, lr=0.1, train_loss=1.0, train_accuracy=0.5, seconds=1.0, images_per_second=1.0)
    with StudyProgress(Console(quiet=True), runs) as progress:
        task = progress.bar.tasks[0]
        assert task.total == sum(map(training_cost, runs))
        progress.epoch(runs[1], record)
        assert task.completed == pytest.approx(training_cost(runs[1]) / 3)
        progress.ended(runs[1])  # it diverged in its second epoch
        assert task.completed == pytest.approx(training_cost(runs[1]))
        for config, _ in pool.run_all([runs[0], runs[2]], report=progress.epoch):
            progress.ended(config)
        assert task.completed == pytest.approx(task.total)
