"""From run directories to records: equal to what the runs' own files say, whatever state they are in."""

from __future__ import annotations

import json
import random
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from convmixer.errors import InputError
from convmixer.manifest import Manifest
from convmixer.report import tables
from convmixer.report.collect import collect
from convmixer.report.compare import grouped, summarize
from convmixer.report.insight import of_row, of_search
from convmixer.report.records import ComparisonRow, StudyRecord
from convmixer.report.render import markdown, page
from convmixer.report.write import csv_text, json_text
from convmixer.runs import RunDir
from convmixer.utils.comparisons import main_effects
from convmixer.utils.formatting import shown_command
from tests.helpers.studies import PUBLISHED, experiment, grid_search, trial, write


def summary(folder: Path, path: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / path / "summary.json").read_text())
    return values


def row(record: StudyRecord, label: str) -> ComparisonRow:
    return next(row for row in record.experiments[0].rows if row.label == label)


def test_runs_have_the_figures_of_their_files(study_folder: Path, record: StudyRecord) -> None:
    for name in ("base-0", "base-1", "wide-0", "wide-1", "trial-0"):
        run = record.run(f"runs/{name}")
        values = summary(study_folder, run.path)
        for field in (
            "status",
            "seed",
            "test_accuracy",
            "train_accuracy",
            "val_accuracy",
            "epoch_seconds",
            "parameters",
        ):
            assert getattr(run, field) == values[field], field
        evaluation = json.loads((study_folder / run.path / "evaluation_test.json").read_text())
        assert run.calibration_error == evaluation["expected_calibration_error"]
        assert run.repeat == f"convmixer train --config runs/{name}/config.json"
    assert record.run("runs/base-0").purposes == ("width: base", "grid_search: trial 1", "grid_search: winner")


def test_multiply_adds_by_hand(record: StudyRecord) -> None:
    """One block of width 8 on 4×4 positions of 8×8 images with patches of 2; a linear layer for ten classes."""
    positions, dim, kernel, patch = 16, 8, 3, 2
    want = positions * dim * (patch**2 + kernel**2 + dim) + 10 * dim
    assert record.run("runs/base-0").multiply_adds == want


def test_what_is_not_finished_is_said_and_not_counted(record: StudyRecord) -> None:
    states = {name: record.run(f"runs/{name}") for name in ("missing", "unreadable", "interrupted")}
    assert [run.status for run in states.values()] == ["missing", "unreadable", "interrupted"]
    assert "config.json" in states["unreadable"].message
    assert [problem for problem in record.problems if "unreadable" in problem]
    broken = row(record, "broken")
    assert (broken.unfinished, broken.seeds, broken.test_accuracy, broken.difference) == (3, (), None, None)
    assert of_row(broken, None) == "Not measured yet."


def test_rows_are_means_over_seeds(study_folder: Path, record: StudyRecord) -> None:
    wide = [summary(study_folder, f"runs/wide-{seed}") for seed in range(2)]
    base = [summary(study_folder, f"runs/base-{seed}") for seed in range(2)]
    got = row(record, "wide & <bold>")
    tests = [values["test_accuracy"] for values in wide]
    assert got.test_accuracy is not None
    assert got.test_accuracy.mean == pytest.approx(statistics.fmean(tests))
    assert got.epoch_seconds == statistics.median(values["epoch_seconds"] for values in wide)
    assert got.gap is not None
    assert got.gap.mean == pytest.approx(statistics.fmean(v["train_accuracy"] - v["test_accuracy"] for v in wide))
    assert got.difference is not None
    want = scipy.stats.ttest_rel(tests, [values["test_accuracy"] for values in base])
    assert got.difference.p_value == pytest.approx(want.pvalue)
    assert got.difference.p_adjusted == pytest.approx(want.pvalue)  # the only comparison
    assert got.difference.mean == pytest.approx(statistics.fmean(tests) - row(record, "base").test_accuracy.mean)


def test_published_results_stand_beside_their_own_images_only(record: StudyRecord) -> None:
    assert row(record, "base").published is None  # these are digits
    assert row(record, "wide & <bold>").difference.published is None


def test_grid_search(record: StudyRecord) -> None:
    (grid,) = record.searches
    assert [trial.state for trial in grid.trials] == ["finished", "finished", "running"]
    assert not grid.at_published_scale
    (effect,) = grid.effects
    assert effect.name == "lr"
    assert effect.share == pytest.approx(1.0)
    assert grid.winner is not None
    assert grid.winner.seeds == (0, 1)
    assert "2 of 3 trials finished." in of_search(grid)
    assert "trial 1 (lr 0.02)" in of_search(grid)


def test_values_from_a_range_are_taken_in_quarters() -> None:
    space = {"lr": {"low": 0.0, "high": 1.0, "log": False}, "batch_size": [1, 2]}
    trials = [({"lr": i / 16, "batch_size": 1 + i % 2}, i / 100) for i in range(16)]
    got = grouped(space, trials)
    assert [values["batch_size"] for values, _ in got] == [1, 2] * 8
    assert [accuracy for _, accuracy in got] == [accuracy for _, accuracy in trials]
    assert [values["lr"] for values, _ in got[::4]] == [1.5 / 16, 5.5 / 16, 9.5 / 16, 13.5 / 16]
    (lr, batch_size) = main_effects(got)
    assert (lr.name, batch_size.name) == ("lr", "batch_size")
    assert lr.by_chance == pytest.approx(3 / 15)


@pytest.fixture
def loose(study_folder: Path, tmp_path: Path) -> Path:
    """Runs that no file explains."""
    for name in ("base-0", "base-1", "wide-0"):
        shutil.copytree(study_folder / "runs" / name, tmp_path / "loose" / name)
    return tmp_path / "loose"


def test_a_folder_of_runs_is_grouped_by_what_differs(loose: Path) -> None:
    (only,) = summarize(collect(loose), "").experiments
    assert (only.name, only.title, only.designed) == ("runs digits", "Runs on digits", False)
    assert only.base is None
    assert {row.label: row.seeds for row in only.rows} == {"dim 8": (0, 1), "dim 24": (0,)}


def test_a_single_run(loose: Path) -> None:
    record = summarize(collect(loose / "base-0"), "")
    assert [run.path for run in record.runs] == ["."]
    assert record.runs[0].name == "base-0"
    assert of_row(record.experiments[0].rows[0], None) == "One seed: the spread between seeds is unknown."


def test_further_accuracies_are_taken_up(loose: Path) -> None:
    path = loose / "base-0" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"raw_val_accuracy": 0.25, "test_accuracy_tta": 0.5}))
    Manifest(path.parent).accept()
    record = summarize(collect(loose), "")
    assert record.run("base-0").extra_metrics == {"raw_val_accuracy": 0.25, "test_accuracy_tta": 0.5}
    (group,) = record.experiments
    index = next(i for i, row in enumerate(group.rows) if "base-0" in row.runs)
    assert group.rows[index].extra_metrics["raw_val_accuracy"].mean == 0.25
    for table, i in ((tables.runs(record), 0), (tables.metrics(group), index)):
        shown = dict(zip(table.headers, table.rows[i], strict=True))
        assert (shown["Raw val accuracy"].value, shown["Test accuracy tta"].value) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.jsonl", "not json\n"),
        ("metrics.jsonl", '{"epochs": 3}\n'),
        ("summary.json", "[]"),
        ("summary.json", '{"status": "finished"}'),
        ("environment.json", "{"),
        ("environment.json", "[1]"),
        ("dataset.json", "3"),
        ("evaluation_test.json", '{"accuracy": 1}'),
        ("evaluation_test.json", "[]"),
        ("config.json", '{"seed": -1}'),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_reported(loose: Path, file: str, content: str) -> None:
    (loose / "base-1" / file).write_text(content)
    Manifest(loose / "base-1").accept()  # written so, as far as the manifest knows
    record = summarize(collect(loose), "")
    assert record.run("base-1").status == "unreadable"
    assert record.run("base-0").status == "finished"
    (problem,) = record.problems
    assert problem.startswith("base-1: ")
    assert file in problem


def test_a_crashed_run_says_why(loose: Path) -> None:
    RunDir(loose / "base-1").reopen()
    (loose / "base-1" / "error.txt").write_text("Traceback …\nMemoryError: no room\n")
    run = collect(loose).runs["base-1"].row
    assert (run.status, run.message) == ("crashed", "MemoryError: no room")


def test_experiments_come_in_the_registrys_order(loose: Path) -> None:
    for name in ("another", "classifier", "hidden_dim"):
        write(loose / "experiments" / f"{name}.json", experiment(name, [{"label": "a", "changes": {}, "runs": []}]))
    record = summarize(collect(loose), "")
    assert [e.name for e in record.experiments if e.designed] == ["hidden_dim", "classifier", "another"]


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x"}', '{"name": "x", "rows": [{"label": "a"}]}'])
def test_a_damaged_plan_is_a_problem_and_no_failure(loose: Path, content: str) -> None:
    write(loose / "experiments" / "good.json", experiment("good", [{"label": "a", "changes": {}, "runs": []}]))
    (loose / "experiments" / "bad.json").write_text(content)
    (loose / "grid_search.json").write_text(content)
    record = summarize(collect(loose), "")
    assert [e.name for e in record.experiments if e.designed] == ["good"]
    assert [problem.split(".json")[0] for problem in record.problems] == ["experiments/bad", "grid_search"]


def test_a_folder_in_place_of_a_plan_is_a_problem(loose: Path) -> None:
    for name in ("experiments/bad.json", "grid_search.json"):
        (loose / name).mkdir(parents=True)
    problems = summarize(collect(loose), "").problems
    assert [problem.split(".json")[0] for problem in problems] == ["experiments/bad", "grid_search"]


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_nothing_to_report(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=folder):
        collect(tmp_path / folder)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (None, None),
        (["/a/b/convmixer", "train", "--out", "my run"], "convmixer train --out 'my run'"),
        (["/a/convmixer/__main__.py", "train"], "convmixer train"),
    ],
)
def test_commands_are_shown_without_where_the_program_lay(words: list[str] | None, shown: str | None) -> None:
    assert shown_command(words) == shown


def test_status_is_that_of_the_run_directory(study_folder: Path, record: StudyRecord) -> None:
    for run in record.runs:
        if run.status not in ("missing", "unreadable"):
            assert run.status == RunDir(study_folder / run.path).status()


HOSTILE: list[Any] = [
    None,
    "text",
    "",
    [],
    {},
    ["x"],
    {"x": []},
    True,
    -1,
    10**30,
    1e308,
    "../../../x",
    "\x1b[2J<b>",
    [[[]]],
]


def places(values: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested values something may be put."""
    yield where
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield from places(value, (*where, key))


def test_any_value_anywhere_in_a_strangers_records(loose: Path, tmp_path: Path) -> None:
    """Whatever is put in the place of a value, the report is written, and by far the most of it is named."""
    row = {"label": "a", "changes": {"dim": 8}, "published": PUBLISHED, "runs": [{"seed": 0, "path": "base-0"}]}
    write(loose / "experiments" / "one.json", experiment("one", [row]))
    trials = [trial(loose, i, 0.01 * (i + 1), f"base-{i}") for i in range(2)]
    write(loose / "grid_search.json", grid_search(trials, [{"seed": 0, "path": "base-0"}]))
    chance, named = random.Random(0), 0
    names = ("base-0/summary.json", "base-0/environment.json", "base-0/dataset.json", "base-0/evaluation_test.json")
    for name in (*names, "experiments/one.json", "grid_search.json"):
        file = loose / name
        before, content = file.read_text(), json.loads(file.read_text())
        every = [place for place in places(content) if len(place) < 5]
        for number, place in enumerate(chance.sample(every, min(len(every), 8))):
            changed = json.loads(before)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            value = HOSTILE[number % len(HOSTILE)]
            if place:
                holder[place[-1]] = value
            file.write_text(json.dumps(changed if place else value))
            if file.parent == loose / "base-0":
                Manifest(file.parent).accept()
            record = summarize(collect(loose), "")
            page(record, [], None)
            markdown(record, [], None, "study")
            json_text(record)
            csv_text(record)
            named += bool(record.problems)
        file.write_text(before)
    assert named > 15
