"""What an experiment is: a question, a base, and rows that change few of its fields; and the sizes it can be run at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from convmixer.config import DataConfig, RunConfig
from convmixer.experiments.matching import dim_for_parameters, epochs_for_cost
from convmixer.presets import run_config


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """What the first study published for a row: one run on CIFAR-10, the best of 25 epochs on the test set."""

    test_accuracy: float
    """A fraction, as all accuracies here."""
    train_accuracy: float | None = None
    epoch_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of an experiment's table, as it is at full scale; a profile scales it."""

    label: str
    """May name fields of the run's configuration in braces: ``"dim {dim}"``."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields in which the row differs from the base, as :func:`convmixer.presets.run_config` takes them."""
    published: PublishedResult | None = None
    equal: Literal["parameters", "training"] | None = None
    """What is made equal to the base's: the number of parameters, by another width; or the multiply-adds of the whole
    training, the stand-in for time that does not depend on the machine, by another number of epochs."""


BASE = Row(
    "base {dim}/{depth}", published=PublishedResult(test_accuracy=0.9224, train_accuracy=0.9420, epoch_seconds=32.59)
)
"""The network that the published table compares all others with."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question, and the table of runs that answers it."""

    name: str
    question: str
    base: Row = BASE
    rows: tuple[Row, ...]
    """All others; their changes are on top of the base's."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question that a search over the fields of the base answers; a profile says which values it tries."""

    name: str
    question: str
    published: PublishedResult


@dataclass(frozen=True)
class Profile:
    """How large an experiment is: what its runs have in common, and how many seeds they are repeated with."""

    description: str
    seeds: int
    fields: Mapping[str, Any]
    widest: int
    """Rows with a larger dim are left out."""
    grid: tuple[str, ...] = ()
    """Values that searches try, as ``convmixer grid-search --values`` takes them; by default the published grid."""

    def scaled(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A row's ``changes`` in this profile's proportions: a dim twice that of the full base stays twice the base."""
        full = PROFILES["full"].fields
        return {
            name: max(unit, unit * round(value * self.fields[name] / full[name] / unit))
            if (unit := _UNITS.get(name))
            else value
            for name, value in changes.items()
        }


_UNITS = {"dim": 8, "depth": 1, "patch_size": 1}
"""Fields that a profile scales, and what the result is a multiple of."""

PROFILES = {
    "smoke": Profile(
        "a minute on the digits: does everything work?",
        seeds=2,
        fields={
            "recipe": "reference",
            "dim": 32,
            "depth": 2,
            "kernel_size": 5,
            "patch_size": 2,
            "epochs": 3,
            "batch_size": 64,
        },
        widest=64,
        grid=("lr=0.003,0.01", "weight_decay=0.001,0.01", "batch_size=64"),
    ),
    "cpu": Profile(
        "small networks and few epochs on real images: an hour or two on two cores",
        seeds=3,
        fields={"recipe": "reference", "dim": 64, "depth": 4, "kernel_size": 5, "patch_size": 4, "epochs": 6},
        widest=128,
        grid=("lr=0.005,0.02,0.05", "weight_decay=0.0005,0.005", "batch_size=128,512"),
    ),
    "full": Profile(
        "the published networks and epochs, for a GPU",
        seeds=5,
        fields={"recipe": "reference", "dim": 256, "depth": 8, "kernel_size": 5, "patch_size": 2, "epochs": 25},
        widest=1024,
    ),
}


@dataclass(frozen=True)
class PlannedRow:
    """A row at a profile's scale: what it changes there, and its run for every seed."""

    label: str
    changes: dict[str, Any]
    published: PublishedResult | None
    runs: tuple[RunConfig, ...]


def plan(experiment: Experiment, profile: Profile, seeds: int, data: DataConfig, **common: Any) -> list[PlannedRow]:
    """The rows of ``experiment`` at ``profile``'s scale, the base first, with a run for each of ``seeds`` seeds.

    Rows too wide for the profile, and rows that are no different from the base there, are left out.

    Args:
        experiment: what to compare.
        profile: at which scale.
        seeds: runs of each row, with seeds from 0.
        data: the images.
        common: further fields that all runs share, such as ``device``.

    Raises:
        InputError: unknown field or impossible value.
    """
    base = {**profile.fields, **vars(data), **common, **profile.scaled(experiment.base.changes)}
    planned: list[PlannedRow] = []
    for row, changes in _resolved(experiment, profile, base):
        first = _run(base | changes)
        known = {other.runs[0].identity_hash() for other in planned}
        if first.architecture.dim <= profile.widest and first.identity_hash() not in known:
            label = row.label.format(**first.identity())
            runs = tuple(first.replace(seed=seed) for seed in range(seeds))
            planned.append(PlannedRow(label, changes, row.published, runs))
    return planned


def base_config(profile: Profile, data: DataConfig, **common: Any) -> RunConfig:
    """The run that all experiments start from, at ``profile``'s scale; arguments as :func:`plan`."""
    return _run({**profile.fields, **vars(data), **common})


def _resolved(
    experiment: Experiment, profile: Profile, base: Mapping[str, Any]
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Each row with what it changes, once its size is scaled and made equal to the base's where that is asked."""
    yield experiment.base, {}
    target = _run(base)
    for row in experiment.rows:
        changes = profile.scaled(row.changes)
        if row.equal == "parameters":
            changes["dim"] = dim_for_parameters(_run({**base, **changes}), target)
        elif row.equal == "training":
            changes["epochs"] = epochs_for_cost(_run({**base, **changes}), target)
        yield row, changes


def _run(fields: Mapping[str, Any]) -> RunConfig:
    rest = dict(fields)
    return run_config(rest.pop("model", "convmixer"), rest.pop("recipe"), **rest)
