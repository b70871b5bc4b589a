"""Losses of short runs as numbers: a change that moves all ways of computing together does not pass unnoticed.

``python -m tests.training.test_golden`` makes ``golden.json`` anew. It is to be committed only together with a change
that is meant to change results, and says so. The numbers were first made before the loop was taken apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from convmixer.presets import RECIPES, run_config
from convmixer.training import train

GOLDEN = Path(__file__).with_name("golden.json")

# Nine steps: what two CPUs, or two builds of PyTorch, round differently grows with every step. After nine of them the
# losses with AVX-512, AVX2 and SSE differ by less than 2e-5 of their value in float32, and by 5e-5 in bfloat16.
SIZES: dict[str, Any] = {"dim": 8, "depth": 2, "kernel_size": 3, "epochs": 3, "batch_size": 431, "seed": 3}
SIZES |= {"precise_bn": False}  # the validation losses are those of the running statistics, as the training left them
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-3}

# What no recipe asks for, each with another way through the loop.
OPTIONS: dict[str, dict[str, Any]] = {
    "growing": {"image_size_start": 4, "mixup": 0.4, "cutmix": 1.0},
    "parts": {"accumulate": 3, "ema_decay": 0.5, "dropout": 0.2, "drop_path": 0.3},
    "rh": {"model": "convmixer_rh"},
    "lc": {"model": "convmixer_lc", "lr": 1e-3},
    "bn": {"model": "convmixer_bn"},
}


def cases() -> dict[str, dict[str, Any]]:
    """What differs from :data:`SIZES` in each run."""
    found: dict[str, dict[str, Any]] = {}
    for engine, precision in (("plain", "float32"), ("fast", "float32"), ("fast", "bfloat16")):
        how = {"engine": engine, "precision": precision}
        found |= {f"{recipe} {engine} {precision}": {"recipe": recipe, **how} for recipe in RECIPES}
    return found | {f"baseline {name}": {**changes, "engine": "plain"} for name, changes in OPTIONS.items()}


def losses(changes: dict[str, Any]) -> list[float]:
    """Mean training loss and validation loss of each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = run_config(**{"dataset": "digits", "device": "cpu", **SIZES, **changes})
        train(config, run, test=False)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train_loss", "val_loss")]


@pytest.mark.parametrize("case", cases())
def test_losses_are_what_they_were(case: str) -> None:
    expected = json.loads(GOLDEN.read_text())[case]
    changes = cases()[case]
    assert losses(changes) == pytest.approx(expected, rel=TOLERANCE[changes.get("precision", "float32")])


def test_every_number_has_a_run() -> None:
    assert json.loads(GOLDEN.read_text()).keys() == cases().keys()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    target.write_text(json.dumps({case: losses(changes) for case, changes in cases().items()}, indent=1) + "\n")
