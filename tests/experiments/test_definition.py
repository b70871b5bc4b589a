"""Tables become runs: scaled by the profile, made equal where that is asked, shared where they are the same."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from convmixer.config import DataConfig
from convmixer.errors import InputError
from convmixer.experiments import EXPERIMENTS, PROFILES, Experiment, Row, experiments_named
from convmixer.experiments.definition import PlannedRow, plan
from convmixer.experiments.grid_search import published_result
from convmixer.experiments.matching import training_cost
from convmixer.models import build_model, count_multiply_adds, count_parameters
from convmixer.search.space import SearchConfig
from tests.helpers.cli import Run
from tests.helpers.experiments import RATES, TINY, WIDTHS

TABLES = {name: entry for name, entry in EXPERIMENTS.items() if isinstance(entry, Experiment)}
DIGITS = DataConfig(dataset="digits")


def parameters(row: PlannedRow) -> int:
    return count_parameters(build_model(row.runs[0].architecture, 10, 3))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("experiment", TABLES.values(), ids=lambda experiment: experiment.name)
def test_every_experiment_is_valid_in_every_profile(experiment: Experiment, profile: str) -> None:
    rows = plan(experiment, PROFILES[profile], 2, DIGITS)
    assert len(rows) >= 2
    assert len({row.label for row in rows}) == len(rows)
    assert len({row.runs[0].identity_hash() for row in rows}) == len(rows)
    for row in rows:
        assert [run.seed for run in row.runs] == [0, 1]
        assert row.runs[0].replace(seed=1) == row.runs[1]
        assert row.runs[0].data == DIGITS
        changed = {name for name, value in row.runs[0].identity().items() if value != rows[0].runs[0].identity()[name]}
        assert set(row.changes) <= changed | {"bottleneck_factor"}  # its default is written out all the same
        if not {"model", "recipe"} & set(row.changes):  # which stand for several fields
            assert changed <= set(row.changes)


def test_names_of_profiles_and_experiments_in_the_help(convmixer: Run) -> None:
    status, out, _ = convmixer("experiment", "--help")
    assert status == 0
    assert f"{{{','.join(PROFILES)}}}" in out
    assert set(EXPERIMENTS) <= set(re.findall(r"\w+", out))


def test_the_documents_network_at_full_scale() -> None:
    base = plan(TABLES["hidden_dim"], PROFILES["full"], 1, DIGITS)[0]
    assert parameters(base) == 594_186
    assert base.runs[0].train.epochs == 25
    assert base.published is not None
    assert base.published.test_accuracy == 0.9224


def test_a_profile_keeps_proportions() -> None:
    widths = {
        profile: [row.runs[0].architecture.dim for row in plan(TABLES["hidden_dim"], PROFILES[profile], 1, DIGITS)]
        for profile in PROFILES
    }
    assert widths == {"smoke": [32, 16, 64], "cpu": [64, 32, 128], "full": [256, 128, 512, 1024]}
    patches = plan(TABLES["patch_size"], PROFILES["cpu"], 1, DIGITS)
    assert [row.label for row in patches] == ["patch 4", "patch 2", "patch 8"]


def test_rows_too_wide_or_equal_to_another_are_left_out() -> None:
    assert [row.label for row in plan(WIDTHS, TINY, 1, DIGITS)] == ["lr 0.01", "dim 16", "dropout"]
    twice = Experiment(name="twice", question="?", base=RATES.base, rows=RATES.rows + RATES.rows + (RATES.base,))
    assert len(plan(twice, TINY, 1, DIGITS)) == 3


@pytest.mark.parametrize("profile", ["cpu", "full"])
def test_equal_parameters_and_equal_training(profile: str) -> None:
    """Within what the steps of 8 in width, and whole epochs, allow."""
    rows = plan(TABLES["bottleneck"], PROFILES[profile], 1, DIGITS)
    base = rows[0]
    by_factor = {row.label: row for row in rows[1:3]}
    assert parameters(by_factor["factor 2"]) > parameters(by_factor["factor 4"]) > parameters(base)
    for row in rows[3:5]:
        step = 8 / row.changes["dim"]
        assert parameters(row) / parameters(base) == pytest.approx(1, abs=step)
    for row in rows[5:]:
        assert row.runs[0].architecture.dim == base.runs[0].architecture.dim
        cost = [count_multiply_adds(r.runs[0].architecture, 32, 10) * r.runs[0].train.epochs for r in (row, base)]
        assert cost[0] / cost[1] == pytest.approx(1, abs=0.5 / row.changes["epochs"] + 0.01)
        assert training_cost(row.runs[0]) == cost[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_depth_against_width_keeps_the_parameters(profile: str) -> None:
    """No other multiple of 8 comes nearer."""
    base, *others = plan(TABLES["depth_vs_width"], PROFILES[profile], 1, DIGITS)
    for row in others:
        found = row.changes["dim"]
        wider, narrower = (replace(row, runs=(row.runs[0].replace(dim=dim),)) for dim in (found + 8, max(8, found - 8)))
        distance = [abs(parameters(candidate) - parameters(base)) for candidate in (row, wider, narrower)]
        assert distance[0] == min(distance)


def test_names() -> None:
    assert [experiment.name for experiment in experiments_named(["all", "classifier"])] == list(EXPERIMENTS)
    assert [experiment.name for experiment in experiments_named(["classifier"] * 2)] == ["classifier"]
    with pytest.raises(InputError, match="did you mean 'bottleneck'"):
        experiments_named(["botleneck"])
    with pytest.raises(InputError, match="choose from published"):
        experiments_named([])


def test_the_published_grid_has_27_results_and_nothing_else() -> None:
    points = SearchConfig(search_space="bs,wd,lr").grid()  # in whatever order
    results = [published_result(values) for values in points]
    assert len(results) == 27
    assert None not in results
    best, values = max(zip([r.test_accuracy for r in results], map(str, points), strict=True))
    assert (best, values) == (0.9274, "{'batch_size': 256, 'weight_decay': 0.0001, 'lr': 0.01}")
    assert published_result({"lr": 0.01, "weight_decay": 0.0001}) is None
    assert published_result({"lr": 0.02, "weight_decay": 0.0001, "batch_size": 64}) is None


def test_a_field_that_does_not_exist() -> None:
    wrong = Experiment(name="wrong", question="?", rows=(Row("a", {"dmi": 8}),))
    with pytest.raises(InputError, match="did you mean 'dim'"):
        plan(wrong, TINY, 1, DIGITS)
