"""What a report is made of: typed rows, one for each run, row of an experiment and trial of a grid search.

Accuracies and their differences are fractions in [0, 1], times are seconds; what does not exist is None.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from convmixer.utils.metrics import MainEffect, MeanInterval, Verdict


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run: its figures, and where they come from."""

    path: str
    """Run directory, relative to the study's."""
    status: str
    """As :meth:`RunDir.status` has it; missing (no such directory) or damaged (``message`` says how)."""
    message: str = ""
    model: str | None = None
    dataset: str | None = None
    recipe: str | None = None
    protocol: str | None = None
    seed: int | None = None
    epochs: int | None = None
    selected_epoch: int | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    """For one image."""
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    calibration_error: float | None = None
    epoch_seconds: float | None = None
    images_per_second: float | None = None
    engine: str | None = None
    precision: str | None = None
    machine: str | None = None
    commit: str | None = None
    command: str | None = None
    """What started it."""
    repeat: str | None = None
    """What repeats it."""
    used_by: tuple[str, ...] = ()
    """The rows that it belongs to, as ``experiment: row``."""
    further: dict[str, float] = field(default_factory=dict)
    """Other accuracies in its summary, such as those over several views of each test image."""


@dataclass(frozen=True, kw_only=True)
class DocumentFigures:
    """What the first study reports of a row: the best test epoch of one run on CIFAR-10."""

    test_accuracy: float | None = None
    train_accuracy: float | None = None
    epoch_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's test accuracy minus the base's, over the ``n`` seeds that both have."""

    n: int
    mean: float
    half_width: float | None
    """Of the 95 % interval, not widened for the number of comparisons."""
    p_value: float | None
    p_adjusted: float | None
    """By Holm, over the experiment's rows."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """A row of an experiment: what it changes, and its figures over seeds."""

    label: str
    is_base: bool
    changes: dict[str, Any]
    seeds: tuple[int, ...]
    """Of the finished runs, which all figures are about."""
    runs: tuple[str, ...]
    """Paths of all its runs."""
    unfinished: int
    """How many of them have not finished."""
    test_accuracy: MeanInterval | None
    train_accuracy: MeanInterval | None
    val_accuracy: MeanInterval | None
    gap: MeanInterval | None
    """Train minus test accuracy."""
    epoch_seconds: float | None
    """Median over seeds."""
    parameters: int | None
    multiply_adds: int | None
    further: dict[str, MeanInterval]
    difference: Difference | None
    document: DocumentFigures | None
    document_difference: float | None
    """Mean test accuracy minus the document's; None on other images than CIFAR-10's."""
    on_front: bool
    """No other row is both as accurate and as fast."""
    insight: str


@dataclass(frozen=True, kw_only=True)
class ExperimentRecord:
    """An experiment, or the runs of a folder that belong to none (``base`` is None then)."""

    name: str
    question: str
    profile: str | None
    dataset: str | None
    base: str | None
    command: str | None
    rows: tuple[ComparisonRow, ...]


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial of a grid search."""

    number: int
    values: dict[str, Any]
    seed: int | None
    path: str | None
    state: str
    val_accuracy: float | None
    epoch_seconds: float | None
    document: float | None
    """The document's test accuracy for these values."""


@dataclass(frozen=True, kw_only=True)
class GridRecord:
    """A grid search: its trials, what they say of each parameter, and the winner trained again over seeds."""

    name: str
    space: dict[str, Any]
    """For each parameter the list of its values, or low, high and log of its range."""
    sampler: str | None
    dataset: str | None
    command: str | None
    trials: tuple[TrialRow, ...]
    effects: tuple[MainEffect, ...]
    winner: ComparisonRow | None
    insight: str


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """Everything that a report says."""

    name: str
    command: str
    experiments: tuple[ExperimentRecord, ...]
    grid: GridRecord | None
    runs: tuple[RunRow, ...]
    problems: tuple[str, ...]
    """What could not be read, each a sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of :meth:`to_dict`, also after JSON, which has lists for tuples."""
        record: Self = _built(cls, values)
        return record

    def run(self, path: str) -> RunRow:
        """The run in the directory ``path``."""
        return next(run for run in self.runs if run.path == path)


def _built(hint: Any, value: Any) -> Any:
    """``value`` as ``hint`` asks: a dataclass from a mapping, tuples from lists; None and plain values as they are."""
    if value is None or hint is Any:
        return value
    if isinstance(hint, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _built(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    if typing.get_origin(hint) is tuple:
        return tuple(_built(typing.get_args(hint)[0], item) for item in value)
    if typing.get_origin(hint) is dict:
        return {name: _built(typing.get_args(hint)[1], item) for name, item in value.items()}
    return value
