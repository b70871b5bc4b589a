"""The program for the GPU, tried at tiny sizes on the CPU: records, continuing, stopping."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # as for a script
    spec.loader.exec_module(module)
    return module


def start(gpu: ModuleType, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, gpu.__file__, "--out", str(out), "--data", "digits", "--tiny", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_benchmark_leaves_small_records(gpu: ModuleType, tmp_path: Path) -> None:
    output = finish(start(gpu, tmp_path, "--slice", "bench-k5", "--commit", "abc"))
    assert "bench-k5: done" in output
    records = read(tmp_path / "bench" / "records.json")
    assert [(r["slice"], r["setting"]) for r in records] == [("bench-k5", "plain"), ("bench-k5", "fast")]
    assert (tmp_path / "bench" / "bench-k5.png").stat().st_size > 10_000
    state = read(tmp_path / "state.json")["bench-k5"]
    assert state["status"] == "done"
    assert state["command"].startswith("convmixer bench --device cpu")
    (machine,) = read(tmp_path / "environment.json")
    assert machine["commit"] == "abc"
    assert machine["slices"] == ["bench-k5"]


@pytest.mark.slow
def test_runs_are_not_repeated_where_only_the_records_came_along(gpu: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    finish(start(gpu, first, "--slice", "long-512-strong"))
    second.mkdir()
    (first / "long").rename(second / "long")
    output = finish(start(gpu, second, "--slice", "long-512-strong"))
    assert "done after" in output
    assert not list(second.rglob("checkpoint.pt"))
    (record,) = read(second / "long" / "records.json")
    assert record["summary.json"]["status"] == "finished"
    assert len(record["metrics.jsonl"]["epoch"]) == 1


@pytest.mark.slow
def test_a_slice_is_stopped_before_its_time_is_up_and_continues(gpu: ModuleType, tmp_path: Path) -> None:
    begin = time.monotonic()
    output = finish(start(gpu, tmp_path, "--slice", "document-1", "--workers", "2", "--minutes", "0.45"))
    assert time.monotonic() - begin < 60
    assert "document-1: stopped" in output
    output = finish(start(gpu, tmp_path, "--slice", "document-1", "--workers", "2"))
    assert "document-1: done" in output
    records = read(tmp_path / "document" / "records.json")
    runs = [record for record in records if "run" in record]
    (experiment,) = [record["content"] for record in records if "file" in record]
    assert {row["runs"][0]["path"] for row in experiment["rows"]} == {record["run"] for record in runs}


@pytest.mark.slow
def test_a_signal_ends_the_slice_and_leaves_the_state(gpu: ModuleType, tmp_path: Path) -> None:
    process = start(gpu, tmp_path, "--slice", "sweep")
    while not (tmp_path / "raw" / "sweep.log").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert "sweep: stopped" in finish(process)
    assert read(tmp_path / "state.json")["sweep"]["status"] == "stopped"


def test_next_takes_what_is_left_and_fits(gpu: ModuleType, tmp_path: Path) -> None:
    options = gpu.Options(tmp_path, "digits", 1.0, 1, False, None)
    now = time.monotonic()
    assert gpu.next_slice(options, "next", now + 600) == "tests"
    done = {"tests": {"status": "done"}, "bench-k5": {"status": "failed"}}
    (tmp_path / "state.json").write_text(json.dumps(done))
    assert gpu.next_slice(options, "next", now + 600) == "bench-k9"
    assert gpu.next_slice(options, "next", now + 90) == "epoch-k5"
    assert gpu.next_slice(options, "next", now + 10) is None
    assert gpu.next_slice(options, "tests", now) == "tests"


def test_merging_replaces_what_was_measured_again(gpu: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "part" / "records.json"
    gpu.merge(
        path, [{"slice": "a", "setting": "plain", "seconds": 1.0}, {"slice": "a", "setting": "fast", "seconds": 2.0}]
    )
    gpu.merge(path, [{"slice": "a", "setting": "plain", "seconds": 3.0}])
    assert [record["seconds"] for record in read(path)] == [3.0, 2.0]


def test_commands_name_what_exists(gpu: ModuleType, tmp_path: Path) -> None:
    """The full-scale commands, which no CPU can run, are at least understood by the command line."""
    from convmixer.cli import _parse

    options = gpu.Options(tmp_path, "cifar10", 1.0, 1, False, None)
    for name, piece in gpu.SLICES.items():
        command = list(piece.command(options, name))
        if command[2] == "convmixer":
            _parse(command[3:])
