"""Reports of anything: plan files at any depth, unlike runs grouped by data and named by what tells them apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convmixer.data import DatasetInfo
from convmixer.data.cifar_specs import SPECS
from convmixer.experiments import PublishedResult
from convmixer.manifest import Manifest
from convmixer.report import write_report
from convmixer.report.collect import Run, Study, collect
from convmixer.report.compare import summarize
from convmixer.report.groups import labels_by_settings
from convmixer.report.records import ComparisonRow, ExperimentRecord, RunRow
from convmixer.report.tables import ranking, runs
from convmixer.runs import RunDir
from tests.helpers.runs import tiny_config
from tests.helpers.studies import PUBLISHED


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    Manifest(path.parent).accept()


def copied(study_folder: Path, target: Path, accuracy: float | None = None, **changes: Any) -> None:
    """A run of the study under another name, with other settings and another accuracy."""
    shutil.copytree(study_folder / "runs" / "base-0", target)
    config = RunDir(target).config().replace(**changes)
    RunDir(target).write_json("config.json", config.to_dict())
    edit(target / "summary.json", seed=config.seed, **({} if accuracy is None else {"test_accuracy": accuracy}))


def test_studies_and_searches_are_found_at_any_depth(study_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(study_folder, tmp_path / "mix" / "deep down" / "study")
    copied(study_folder, tmp_path / "mix" / "loose")
    trial = tmp_path / "mix" / "deep down" / "study" / "runs" / "trial-0"
    edit(trial / "summary.json", test_accuracy=None)
    record = summarize(collect(tmp_path / "mix"), "")
    assert [(e.name, e.title) for e in record.experiments] == [
        ("deep down/study/width", "Width (deep down/study)"),
        ("runs digits", "Runs on digits"),
    ]
    assert record.experiments[0].rows[0].seeds == (0, 1)
    assert [row.runs for row in record.experiments[1].rows] == [("loose",)]
    (search,) = record.searches
    assert (search.name, len(search.trials)) == ("deep down/study/grid_search", 3)
    tested = {run.path: run.is_trial for run in record.runs}
    assert [path for path, is_trial in tested.items() if is_trial] == ["deep down/study/runs/trial-0"]
    table = runs(record)
    row = table.rows[table.keys.index("deep down/study/runs/trial-0")]
    assert row[table.headers.index("Test")].text == "search trial, not tested"


def test_unlike_runs_are_grouped_by_data_and_ranked(study_folder: Path, tmp_path: Path) -> None:
    copied(study_folder, tmp_path / "a", 0.5, lr=0.1)
    copied(study_folder, tmp_path / "b-0", 0.7, lr=0.2)
    copied(study_folder, tmp_path / "b-1", 0.9, lr=0.2, seed=1)
    copied(study_folder, tmp_path / "c", 0.6, lr=0.2, dim=16)
    copied(study_folder, tmp_path / "other", 0.99)
    edit(tmp_path / "other" / "dataset.json", name="folder:pets", fingerprint="another")
    shutil.copytree(study_folder / "runs" / "unreadable", tmp_path / "broken")
    record = summarize(collect(tmp_path), "")
    digits, pets = record.experiments
    assert (digits.dataset, pets.dataset) == ("digits", "folder:pets")
    assert [row.label for row in digits.rows] == ["dim 8, lr 0.2", "dim 16, lr 0.2", "dim 8, lr 0.1"]
    assert [row.seeds for row in digits.rows] == [(0, 1), (0,), (0,)]
    assert all(row.changes == {} for row in digits.rows)  # the label has said it
    first, second, _ = ranking(digits, record).rows
    assert first[1].text == "80.00% (2 seeds)"
    assert second[1].text == "60.00% (54.7 to 64.8)"  # Wilson: 215 of 359 images
    assert [link for _, link in first[-1].links] == ["b-0", "b-1"]
    assert record.run("broken").status == "unreadable"
    assert record.problems[0].startswith("broken: ")


def test_long_names_give_way_to_directories(study_folder: Path, tmp_path: Path) -> None:
    many = {"activation": "relu", "weight_decay": 0.123, "label_smoothing": 0.1, "mixup": 0.2, "warmup_epochs": 0.5}
    for i, (name, value) in enumerate(many.items()):
        copied(study_folder, tmp_path / f"idea {i}", **{name: value})
    copied(study_folder, tmp_path / "seeds" / "all-seed0", **many)
    copied(study_folder, tmp_path / "seeds" / "all-seed1", seed=1, **many)
    (group,) = summarize(collect(tmp_path), "").experiments
    labels = {row.label: row.changes for row in group.rows}
    assert set(labels) == {"idea 0", "idea 1", "idea 2", "idea 3", "idea 4", "all"}
    assert labels["idea 2"] == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"model": "m"}], ["m"]),
        ([{"model": "m", "lr": 0.1}, {"model": "m", "lr": 0.2}], ["lr 0.1", "lr 0.2"]),
        # Each learning rate has its own momentum: the better known one of the two says it all.
        ([{"model": "m", "momentum": i, "lr": i / 10} for i in (1, 2)], ["lr 0.1", "lr 0.2"]),
        (
            [{"model": m, "lr": lr, "tta": "none"} for m in ("a", "b") for lr in (0.1, 0.2)],
            ["a, lr 0.1", "a, lr 0.2", "b, lr 0.1", "b, lr 0.2"],
        ),
        (
            [{"model": "a", "kernel_size": [9, 5]}, {"model": "a", "kernel_size": 5}],
            ["kernel size 9,5", "kernel size 5"],
        ),
        ([{"model": "a"}, {"model": "a"}], None),
    ],
)
def test_the_fewest_settings_that_tell_rows_apart(settings: list[dict[str, Any]], labels: list[str] | None) -> None:
    assert labels_by_settings(settings) == labels


def on_cifar10(path: str, **changes: Any) -> Run:
    """A finished run on CIFAR-10's classes, 0.93 on the test set."""
    info = DatasetInfo("cifar10", SPECS["cifar10"].classes, 3, 32, (0.0,), (1.0,), True, "x", {"test": 10000})
    config = tiny_config(dim=256, depth=8, kernel_size=5, patch_size=2, epochs=25).replace(**changes)
    row = RunRow(path=path, status="finished", seed=0, test_accuracy=0.93, dataset="cifar10", test_images=10000)
    return Run(row, config, info)


@pytest.mark.parametrize(
    ("changes", "beside"),
    [
        ({}, True),
        ({"dim": 512, "epochs": 30}, True),
        ({"dim": 64}, False),
        ({"depth": 4}, False),
        ({"epochs": 6}, False),
        ({"patch_size": 4}, False),
    ],
)
def test_published_results_stand_beside_runs_of_their_scale_only(changes: dict[str, Any], beside: bool) -> None:
    published = PublishedResult(**PUBLISHED)
    other = replace(published, test_accuracy=0.9305)
    study_runs = {"base": on_cifar10("base"), "row": on_cifar10("row", **changes)}
    rows = (
        ComparisonRow(label="base", changes={}, runs=("base",), published=published, is_base=True),
        ComparisonRow(label="row", changes=changes, runs=("row",), published=other),
    )
    experiment = ExperimentRecord(name="e", title="E", base="base", rows=rows)
    got = summarize(Study(Path("study"), study_runs, (experiment,), (), ()), "").experiments[0]
    assert got.rows[0].published == published
    assert (got.rows[1].published is not None) == beside
    assert got.rows[1].difference is not None
    assert got.rows[1].difference.published == pytest.approx(0.0081)  # differences compare at any scale


def test_the_page_of_a_run_has_all_that_it_knows(study_folder: Path, tmp_path: Path) -> None:
    copied(study_folder, tmp_path / "my run")
    write_report(tmp_path / "my run", tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    for part in (
        "Training and validation, over epochs",
        "The most confident mistakes",
        "Confusion matrix",
        "Classes",
        "Changed settings",
        "Status",
    ):
        assert part in html
    assert "<h1>my run</h1>" in html
    assert "All runs" not in html
    assert 'data-tip="epoch 1, validation accuracy: ' in html
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| Class | Images | Recall | Precision | F1 |" in text
    assert "![Learning curves over 2 epochs" in text


def test_two_hundred_runs(study_folder: Path, tmp_path: Path) -> None:
    for i in range(200):
        copied(
            study_folder,
            tmp_path / f"a rather long name of a run, number {i}",
            i / 200,
            lr=0.001 + i // 2 / 1000,
            seed=i % 2,
        )
    record, _ = write_report(tmp_path, tmp_path / "out" / "report.html")
    (group,) = record.experiments
    assert len(group.rows) == 100
    assert group.rows[0].label == "lr 0.1"
    html = (tmp_path / "out" / "report.html").read_text()
    assert "the best 6 of 100 in colour" in html
    assert len(html) < 2_000_000
