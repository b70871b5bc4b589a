"""Other runtimes compute the same network, and are left out where they are not installed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from convmixer.bench.rivals import RUNTIMES, infer_step
from convmixer.bench.settings import SETTINGS, BenchConfig
from convmixer.bench.step import Job, step_of
from convmixer.models import ConvMixer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_rival_computes_the_same(runtime: str) -> None:
    if runtime != "native":
        pytest.importorskip("onnxscript")
        pytest.importorskip(runtime)
    torch.manual_seed(0)
    model = ConvMixer(dim=16, depth=2, kernel_size=3, engine="plain").eval()
    x = torch.randn(5, 3, 8, 8)
    answer: Any = infer_step(runtime, model, x, "float32")()
    with torch.no_grad():
        np.testing.assert_allclose(
            np.asarray(answer if runtime == "native" else answer[0]), model(x).numpy(), rtol=1e-4, atol=1e-5
        )


def test_rivals_infer_only_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = BenchConfig().chosen("cpu")
    assert {how.runtime for how in chosen.values()} == {"", *RUNTIMES}
    assert {how.runtime for how in chosen.values() if how.does("train")} == {""}
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    name = next(name for name, how in SETTINGS.items() if how.runtime == "onnxruntime")
    with pytest.raises(ImportError):
        step_of(Job.of_preset("infer", "convmixer_256_8_k5", 1, 8, name, "cpu", 1))
