"""The figures of the engine come out of a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")
def test_the_figures_of_the_engine(tmp_path: Path, repository: Path) -> None:
    command = [
        sys.executable,
        str(repository / "benchmarks" / "engine_facts.py"),
        "--json",
        str(tmp_path / "facts.json"),
    ]
    sizes = ["--rounds", "1", "--points", "2001", "--model", "convmixer_256_8_k5"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, env={**os.environ}, timeout=120)
    assert done.returncode == 0, done.stderr
    facts = {fact["name"]: fact["value"] for fact in json.loads((tmp_path / "facts.json").read_text())}
    assert facts["later: kernels loaded"] < facts["first use: kernels built"]
    assert 0 < facts["GELU, largest error"] < 2e-6
    assert 0 < facts["derivative of GELU, largest error"] < 1e-6
    assert len(done.stdout.splitlines()) == len(facts) == 6
