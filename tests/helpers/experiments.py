"""Experiments whose runs take a fraction of a second: a tiny profile of the digits."""

from __future__ import annotations

from pathlib import Path

from convmixer.config import DataConfig
from convmixer.experiments import Experiment, Profile, Row, Search
from convmixer.experiments.suite import Study, Suite
from convmixer.report.collect import collect
from convmixer.report.compare import summarize
from convmixer.report.records import ComparisonRow

TINY = Profile(
    "tiny",
    seeds=2,
    fields={
        "recipe": "baseline",
        "dim": 8,
        "depth": 1,
        "kernel_size": 3,
        "patch_size": 2,
        "epochs": 2,
        "batch_size": 200,
        "randaugment": 0,
    },
    widest=16,
)

RATES = Experiment(
    name="rates",
    question="Which learning rate?",
    base=Row("lr {lr}", {"lr": 0.01}),
    rows=tuple(Row("lr {lr}", {"lr": lr}) for lr in (0.003, 0.03)),
)
WIDTHS = Experiment(
    name="widths",
    question="Which width?",
    base=RATES.base,
    rows=(Row("dim {dim}", {"dim": 512}), Row("dropout", {"dropout": 0.2}), Row("dim {dim}", {"dim": 1024})),
)
"""Its base is a run of RATES too, and its last row is too wide for the tiny profile."""


def tiny_suite(
    out: Path,
    seeds: int = 2,
    profile: Profile = TINY,
    experiments: tuple[Experiment | Search, ...] = (RATES, WIDTHS),
) -> Suite:
    # The engine that "auto" stands for is measured: it may be another one in another process.
    common = {"device": "cpu", "engine": "plain"}
    data = DataConfig(dataset="digits")
    study = Study(out=out, profile_name="tiny", profile=profile, seeds=seeds, data=data, common=common)
    return Suite(study, experiments)


def measured(out: Path) -> dict[tuple[str, str], ComparisonRow]:
    """Every row of the experiments in ``out``, by experiment and label, as a report of it has them."""
    record = summarize(collect(out), "")
    return {(e.name, row.label): row for e in record.experiments if e.designed for row in e.rows}
