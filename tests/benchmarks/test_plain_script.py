"""The script that we compare with is itself what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_the_plain_script_runs(tmp_path: Path, repository: Path) -> None:
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind, colour in (("cat", 60), ("dog", 190)):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(24):
                pixels = noise.integers(colour - 50, colour + 50, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / kind / f"{i}.png")
    options = [
        "--dim",
        "8",
        "--depth",
        "1",
        "--patch-size",
        "4",
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--workers",
        "1",
    ]
    command = [sys.executable, str(repository / "benchmarks" / "plain_script.py"), str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(0 <= record["test_accuracy"] <= 1 for record in records)
