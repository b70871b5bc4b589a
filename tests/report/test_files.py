"""Models side by side: what ``convmixer bench --files`` wrote becomes a section of a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmixer.bench.timing import Machine
from convmixer.deploy import measure
from convmixer.deploy.measure import Measured
from convmixer.report import write_report
from convmixer.report.collect import collect
from convmixer.report.compare import summarize
from convmixer.report.figures import draw_figures, trade_off_points
from convmixer.report.files import files_conditions, files_of, files_table
from convmixer.report.records import StudyRecord
from tests.helpers.cli import Run

FIRST = Measured(
    file="my-run",
    format="run",
    runtime="PyTorch 2.13.0, engine auto",
    precision="float32",
    bytes=4_000_000,
    parameters=1_000_000,
    multiply_adds=250_000_000,
    data="digits",
    images=400,
    accuracy=0.9,
    accuracy_interval=(0.867, 0.926),
    correct=np.ones(400, dtype=bool),
    difference=0.0,
    difference_half_width=0.0,
    p_value=1.0,
    latency_p50=0.01,
    latency_p99=0.02,
    latency_ratio=1.0,
    calls=200,
    images_per_second=1500.0,
    slowest=1400.0,
    fastest=1600.0,
    speed_ratio=1.0,
    batch_size=64,
    threads=2,
    peak_memory=300_000_000,
    runtime_memory=200_000_000,
    machine=Machine("cpu", "Some CPU", 2, "2.13.0"),
)
SMALL = replace(
    FIRST,
    file="small <b>|int8|.onnx",
    format="onnx",
    runtime="ONNX Runtime 1.32",
    precision="int8",
    bytes=1_000_000,
    accuracy=0.8975,
    difference=-0.0025,
    difference_half_width=0.004,
    p_value=0.5,
    latency_p50=0.004,
    latency_ratio=0.4,
    peak_memory=None,
)
WORSE = replace(SMALL, file="worse.onnx", accuracy=0.89, latency_p50=0.005)
ROWS = [FIRST.to_dict(), SMALL.to_dict(), WORSE.to_dict()]


def write(folder: Path, rows: Any = ROWS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench_files.json").write_text(json.dumps(rows))


def test_rows_and_the_pareto_front() -> None:
    record = files_of("below", ROWS, "x")
    assert (record.name, record.title) == ("below/bench_files", "Models side by side (below)")
    assert [row.on_front for row in record.rows] == [True, True, False]
    table = files_table(record)
    cells = [{head: cell.text for head, cell in zip(table.headers, row, strict=True)} for row in table.rows]
    assert cells[0]["Model"] == "my-run *"
    assert cells[0]["Against the first"] == "–"
    assert cells[1]["Against the first"].replace("\N{NO-BREAK SPACE}", " ") == "−0.25 ± 0.40, p = 0.5"
    assert (cells[1]["Size"], cells[1]["Latency"], cells[1]["Memory"]) == ("1.00 MB", "4 ms", "–")
    assert cells[1]["Runtime"] == "ONNX Runtime 1.32, int8"
    assert table.rows[1][4].note == "× 0.40"
    assert files_conditions(record).startswith("digits, 400 test images. Latency: one image, one thread; throughput")
    assert [(p.seconds, p.on_front) for p in trade_off_points(record)] == [(0.01, True), (0.004, True), (0.005, False)]


def test_a_folder_of_nothing_else_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "study" / "below")
    write(tmp_path / "study")
    study = collect(tmp_path / "study")
    record = summarize(study, "convmixer report")
    assert [files.name for files in record.files] == ["bench_files", "below/bench_files"]
    assert StudyRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    figures = draw_figures(record, study)
    assert [figure.name for figure in figures] == ["bench_files_latency", "below-bench_files_latency"]
    assert "On the Pareto front: my-run, PyTorch 2.13.0, small <b>|int8|.onnx" in figures[0].alt
    _, written = write_report(tmp_path / "study")
    page = (tmp_path / "study" / "report" / "report.html").read_text()
    assert "small &lt;b&gt;|int8|.onnx" in page
    assert "McNemar" in page
    assert "All runs" not in page
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "## Models side by side" in text
    assert "figures/bench_files_latency.png" in text
    assert tmp_path / "study" / "report" / "figures" / "bench_files_latency.png" in written


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [],
        [3],
        [ROWS[0] | {"latency_p50": 0.0}],
        [ROWS[0] | {"latency_p99": 1e308}],
        [ROWS[0] | {"accuracy": 1.5}],
        [ROWS[0] | {"bytes": -1}],
        [ROWS[0] | {"file": None}],
        [{"file": "x"}],
    ],
)
def test_a_damaged_record_is_a_problem(tmp_path: Path, rows: Any) -> None:
    write(tmp_path, rows)
    found = collect(tmp_path)
    assert found.files == ()
    assert found.problems[0].startswith("bench_files.json")


def test_the_command_prints_keeps_and_draws(convmixer: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def measured(paths: Any, **options: Any) -> list[Measured]:
        asked.update(options, paths=[str(path) for path in paths])
        return [FIRST, SMALL]

    monkeypatch.setattr(measure, "measure_files", measured)
    line = ("bench", "--files", "my-run", "small.onnx", "--batch-sizes", 32, "--threads", 2, "--data", "my-run")
    status, out, err = convmixer(*line, "--plot", "trade-off.svg", "--out", "bench_files.json")
    assert status == 0, err
    assert "1.00 MB × 0.25" in out
    assert asked["paths"] == ["my-run", "small.onnx"]
    assert (str(asked["data"]), asked["batch_size"], asked["threads"]) == ("my-run", 32, 2)
    assert Path("trade-off.svg").is_file()
    assert json.loads(Path("bench_files.json").read_text()) == json.loads(json.dumps(ROWS[:2]))
    status, out, _ = convmixer(*line, "--json")
    assert json.loads(out) == json.loads(json.dumps(ROWS[:2]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--files x.onnx --models convmixer", "--models: is about engines"),
        ("--files x.onnx --explain", "--explain: is about engines"),
        ("--files x.onnx --batch-sizes 1 2", "give one"),
        ("--files x.onnx --plot x.pdf", "neither a .png nor a .svg"),
        ("--files x.onnx --out nowhere/x.json", "nowhere is no folder"),
        ("--files x.txt", "is neither a run directory nor a model file"),
        ("--files .", "is not a run directory"),
        ("--data x", "name models with --files"),
    ],
)
def test_bad_input(convmixer: Run, line: str, said: str) -> None:
    status, _, err = convmixer("bench", *line.split())
    assert (status, said in err, "Traceback" in err) == (2, True, False), err
