"""The files of a study of tiny real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convmixer.data import Dataset
from convmixer.training import train
from tests.helpers.runs import tiny_config

QUICK: dict[str, Any] = {"crop": "none", "randaugment": 0, "batch_size": 64, "lr": 0.02}

PUBLISHED = {"test_accuracy": 0.9224, "train_accuracy": 0.942, "epoch_seconds": 32.59}


def trained(root: Path, name: str, data: Dataset, **changes: Any) -> dict[str, Any]:
    """Trains a run into the study and returns what the study's files say of it."""
    config = tiny_config(**{**QUICK, **changes})
    train(config, root / "runs" / name, dataset=data)
    return {"seed": config.seed, "path": f"runs/{name}"}


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
    }


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
