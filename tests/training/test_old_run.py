"""A run that an earlier version began (at commit 9f18f15) and this one finishes."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from convmixer.data import Dataset
from convmixer.runs import RunDir
from convmixer.runs.paths import CURRENT
from convmixer.training import train

OLD = Path(__file__).with_name("old_run")
"""Stopped in the second of three epochs; ``expected.jsonl`` has the epochs of the same run uninterrupted."""


@pytest.mark.slow
def test_it_goes_on_as_if_nothing_had_happened(tmp_path: Path, digits: Dataset) -> None:
    run = RunDir(tmp_path)
    for name in ("config.json", "dataset.json"):
        shutil.copy(OLD / name, tmp_path)
    (tmp_path / CURRENT).write_bytes(gzip.decompress((OLD / "checkpoint.pt.gz").read_bytes()))
    assert torch.load(tmp_path / CURRENT, weights_only=True)["position"]["step"] == 2
    summary = train(run.config(), tmp_path, resume=True, dataset=digits)
    assert summary.status == "finished"
    for record, line in zip(run.metrics(), (OLD / "expected.jsonl").read_text().splitlines(), strict=True):
        expected = json.loads(line)
        for name in ("train_loss", "val_loss", "ema_val_loss"):  # 1e-4: other processors round otherwise
            assert getattr(record, name) == pytest.approx(expected[name], rel=1e-4)


def test_a_summary_without_newer_fields_is_read(tmp_path: Path, digits: Dataset) -> None:
    shutil.copy(OLD / "config.json", tmp_path)
    (tmp_path / CURRENT).write_bytes(gzip.decompress((OLD / "checkpoint.pt.gz").read_bytes()))
    summary = train(RunDir(tmp_path).config(), tmp_path, resume=True, dataset=digits, test=False, artifacts=False)
    assert summary.multiply_adds
    values = summary.to_dict()
    del values["multiply_adds"], values["raw_val_accuracy"], values["test_accuracy_tta"]
    RunDir(tmp_path).write_json("summary.json", values)
    old = RunDir(tmp_path).summary()
    assert old is not None
    assert (old.multiply_adds, old.val_accuracy) == (None, summary.val_accuracy)
