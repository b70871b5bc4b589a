"""A study of tiny real runs, with everything in it that can go wrong with a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from convmixer.config import DataConfig
from convmixer.data import Dataset, load_dataset
from convmixer.report.collect import Study, collect
from convmixer.report.compare import summarize
from convmixer.report.records import StudyRecord
from convmixer.training import train
from tests.helpers.runs import tiny_config

QUICK: dict[str, Any] = {"crop": "none", "randaugment": 0, "batch_size": 64, "lr": 0.02}
DOCUMENT = {"test_accuracy": 0.9224, "train_accuracy": 0.942, "epoch_seconds": 32.59}


def trained(root: Path, name: str, data: Dataset, **changes: Any) -> dict[str, Any]:
    """Trains a run into the study and returns what the study's files say of it."""
    config = tiny_config(**{**QUICK, **changes})
    train(config, root / "runs" / name, dataset=data)
    return {"seed": config.seed, "path": f"runs/{name}"}


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows base and wide of two seeds; one of a missing, a damaged and an interrupted run; a search of three trials."""
    root = tmp_path_factory.mktemp("studies") / "tiny <study>"
    data = load_dataset(DataConfig(dataset="digits"))
    base = [trained(root, f"base-{seed}", data, seed=seed) for seed in range(2)]
    wide = [trained(root, f"wide-{seed}", data, seed=seed, dim=24) for seed in range(2)]
    for name in ("damaged", "interrupted"):
        shutil.copytree(root / "runs" / "base-0", root / "runs" / name)
        (root / "runs" / name / "summary.json").unlink()
    (root / "runs" / "damaged" / "config.json").write_text('{"seed": ')
    broken = [{"seed": i, "path": f"runs/{name}"} for i, name in enumerate(("missing", "damaged", "interrupted"))]
    rows = [
        {"label": "base", "changes": {}, "document": DOCUMENT, "runs": base},
        {"label": "wide & <bold>", "changes": {"dim": 24}, "document": None, "runs": wide},
        {"label": "broken", "changes": {"dim": 99}, "document": DOCUMENT, "runs": broken},
    ]
    write(root / "experiments" / "width.json", experiment("width", rows))
    slow = trained(root, "trial-0", data, lr=0.002)
    trials = [trial(root, 0, 0.002, slow["path"]), trial(root, 1, 0.02, base[0]["path"]), trial(root, 2, 0.2, None)]
    write(root / "grid_search.json", grid_search(trials, base))
    return root


def experiment(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    command = ["/somewhere/bin/convmixer", "experiment", name, "--dataset", "digits"]
    head = {"name": name, "question": f"Does {name} matter?", "profile": "smoke", "dataset": "digits"}
    return head | {"base": rows[0]["label"], "seeds": [0, 1], "command": command, "rows": rows}


def trial(root: Path, number: int, lr: float, path: str | None) -> dict[str, Any]:
    summary = json.loads((root / path / "summary.json").read_text()) if path else {}
    figures = {name: summary.get(name) for name in ("val_accuracy", "epoch_seconds")}
    state = "finished" if path else "running"
    return {"number": number, "values": {"lr": lr}, "seed": 0, "path": path, "state": state, **figures}


def grid_search(trials: list[dict[str, Any]], winner: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "grid_search",
        "space": {"lr": [0.002, 0.02, 0.2]},
        "sampler": "grid",
        "dataset": "digits",
        "command": ["convmixer", "grid-search"],
        "trials": trials,
        "winner": {"values": {"lr": 0.02}, "runs": winner},
        "document": [{"values": {"lr": 0.02}, "test_accuracy": 0.9274}],
    }


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def study(study_folder: Path) -> Study:
    return collect(study_folder)


@pytest.fixture(scope="session")
def record(study: Study) -> StudyRecord:
    return summarize(study, "convmixer report")
