"""The runs below a directory, in a line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convmixer.errors import InputError
from convmixer.manifest import is_run
from convmixer.runs.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """What a list of runs says of one. Accuracies are fractions in [0, 1]."""

    path: str
    status: str
    model: str
    dataset: str
    recipe: str
    seed: int
    epochs: int
    finished_epochs: int
    val_accuracy: float | None
    """Of the selected epoch, before the end of the run the best one so far."""
    test_accuracy: float | None
    parameters: int | None
    started: str
    """ISO 8601; empty if unknown."""


def find_runs(root: Path) -> Iterator[Path]:
    """Run directories at or below ``root``, sorted; hidden folders are passed over, and links not followed."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if is_run(Path(folder), [*files, *names]):
            names.clear()  # a run holds no runs
            yield Path(folder)


def list_runs(root: Path) -> tuple[list[RunRow], list[str]]:
    """The runs below ``root``, and a sentence for each that cannot be read.

    Raises:
        InputError: no such directory.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is not a directory; give one that holds runs.")
    rows, problems = [], []
    for path in find_runs(root):
        try:
            rows.append(_row(RunDir(path)))
        except InputError as error:
            problems.append(str(error))
    return rows, problems


def _row(run: RunDir) -> RunRow:
    config, summary, metrics = run.config(), run.summary(), run.metrics()
    scores = [score for record in metrics if (score := record.selection_metrics()[1]) is not None]
    best = max(scores, default=None) if config.protocol == "validation" else None
    return RunRow(
        path=str(run.path),
        status=run.status(),
        model=config.model,
        dataset=summary.dataset if summary else config.data.dataset,
        recipe=config.recipe,
        seed=config.seed,
        epochs=config.train.epochs,
        finished_epochs=len(metrics),
        val_accuracy=summary.val_accuracy if summary else best,
        test_accuracy=summary.test_accuracy if summary else None,
        parameters=summary.parameters if summary else None,
        started=str(run.environment().get("started", "")),
    )
