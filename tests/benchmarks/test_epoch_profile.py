"""The profile of an epoch, with the CPU as the device."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "epoch_profile.py"
spec = importlib.util.spec_from_file_location("epoch_profile", PROGRAM)
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair))), max_size=8)


@given(SPANS, st.integers(0, 15), st.integers(15, 30))
def test_covered_counts_each_moment_once(spans: list[tuple[int, int]], begin: int, end: int) -> None:
    moments = {t for low, high in spans for t in range(low, high) if begin <= t < end}
    assert module.covered(spans, begin, end) == len(moments)


@pytest.mark.slow
def test_an_epoch_is_recorded() -> None:
    sizes = ["--dim", "8", "--depth", "1", "--epochs", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--data", "digits", *sizes], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert len(record["epoch_seconds"]) == 2
    assert 0.1 < record["busy"] <= 1
    assert any("conv" in operation["name"] for operation in record["operations"])
    assert record["operations"][0]["seconds"] >= record["operations"][-1]["seconds"] > 0
