"""What a report says, as typed rows: one for each run, row of an experiment and trial of a search.

Accuracies and their differences are fractions in [0, 1], times are seconds; what does not exist is None. Paths are
relative to the folder that the report is about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

from msgspec import Meta

from convmixer.experiments import PublishedResult
from convmixer.records import build
from convmixer.runs import TrialRecord
from convmixer.utils.comparisons import MainEffect, MeanInterval, Verdict

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run: its metrics, and where they come from."""

    path: str
    name: str = ""
    """The last part of the path that tells it from the other runs."""
    status: str
    """As :meth:`RunDir.status` has it; missing (no such directory) or unreadable (``message`` says why)."""
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
    val_images: int | None = None
    test_accuracy: float | None = None
    test_images: int | None = None
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
    purposes: tuple[str, ...] = ()
    """The rows that it belongs to, as ``experiment: row``."""
    is_trial: bool = False
    """A trial of a search and nothing else: it is not meant to be tested."""
    extra_metrics: dict[str, float] = field(default_factory=dict)
    """Other accuracies in its summary, such as those with test-time augmentation."""


@dataclass(frozen=True, kw_only=True)
class Difference(MeanInterval):
    """A row's test accuracy minus the base's, over the ``n`` seeds that both have.

    The interval is that of the paired t test, not widened for the number of comparisons.
    """

    p_value: float | None
    p_adjusted: float | None
    """By Holm, over the experiment's rows."""
    verdict: Verdict
    published: float | None = None
    """The published difference between these rows; None on other images than CIFAR-10's."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """A row of an experiment: what it changes, which runs are its own, and once measured its metrics over seeds."""

    label: str
    changes: dict[str, Any]
    runs: tuple[str, ...]
    """Paths of all its runs."""
    published: PublishedResult | None = None
    """What the first study published for it; in a finished report only beside runs on its data and at its scale."""
    is_base: bool = False
    seeds: tuple[int, ...] = ()
    """Of the finished runs, which all metrics are about."""
    unfinished: int = 0
    """How many of its runs have no result, the diverged ones among them."""
    diverged: int = 0
    test_accuracy: MeanInterval | None = None
    train_accuracy: MeanInterval | None = None
    val_accuracy: MeanInterval | None = None
    gap: MeanInterval | None = None
    """Train minus test accuracy."""
    epoch_seconds: float | None = None
    """Median over seeds."""
    parameters: int | None = None
    multiply_adds: int | None = None
    extra_metrics: dict[str, MeanInterval] = field(default_factory=dict)
    difference: Difference | None = None
    on_front: bool = False
    """No other row is both as accurate and as fast."""


@dataclass(frozen=True, kw_only=True)
class ExperimentRecord:
    """An experiment, or the runs on one data set that belong to none (not ``designed``, and without a base)."""

    name: str
    """Unique in a report: for an experiment below the report's folder, with the path to it."""
    title: str
    designed: bool = True
    question: str = ""
    profile: str | None = None
    dataset: str | None = None
    base: str | None = None
    command: str | None = None
    rows: tuple[ComparisonRow, ...]


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A search: its trials, what they say of each parameter, and the winner trained again over seeds."""

    name: str
    """Unique in a report, as an experiment's."""
    title: str
    space: dict[str, Any]
    """For each parameter the list of its values, or low, high and log of its range."""
    sampler: str | None
    dataset: str | None
    command: str | None
    trials: tuple[TrialRecord, ...]
    at_published_scale: bool = False
    """Published accuracies for the same values may stand beside its trials."""
    effects: tuple[MainEffect, ...] = ()
    winner: ComparisonRow | None = None


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A run or model file that ``convmixer bench --files`` measured; see :class:`convmixer.deploy.measure.Measured`."""

    file: str
    format: str
    runtime: str
    precision: str
    bytes: NotNegative
    parameters: NotNegative
    multiply_adds: NotNegative
    data: str
    images: Annotated[int, Meta(gt=0)]
    accuracy: Share
    accuracy_interval: tuple[Share, Share]
    difference: Annotated[float, Meta(ge=-1, le=1)]
    """To the first row's accuracy, on the same images."""
    difference_half_width: float
    p_value: Share
    latency_p50: Seconds
    latency_p99: Seconds
    latency_ratio: float
    """To the first row's, as the other ratio."""
    images_per_second: float
    speed_ratio: float
    batch_size: NotNegative
    threads: NotNegative
    device_name: str
    peak_memory: NotNegative | None = None
    runtime_memory: NotNegative | None = None
    on_front: bool = False
    """No other row is both as accurate and as fast."""


@dataclass(frozen=True, kw_only=True)
class FilesRecord:
    """Runs and model files that were measured side by side."""

    name: str
    """Unique in a report, as an experiment's."""
    title: str
    rows: tuple[FileRow, ...]


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """Everything that a report says."""

    name: str
    command: str
    experiments: tuple[ExperimentRecord, ...]
    searches: tuple[SearchRecord, ...]
    runs: tuple[RunRow, ...]
    files: tuple[FilesRecord, ...] = ()
    problems: tuple[str, ...]
    """What could not be read, each a sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of :meth:`to_dict`, also after JSON, which has lists for tuples."""
        return build(cls, values, "report")

    @property
    def single(self) -> RunRow | None:
        """The run, if the report is about one run alone."""
        return self.runs[0] if len(self.runs) == 1 and not self.searches else None

    def run(self, path: str) -> RunRow:
        """The run in the directory ``path``."""
        return next(run for run in self.runs if run.path == path)
