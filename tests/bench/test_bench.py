"""The benchmark at tiny sizes: competitors in processes of their own, records, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convmixer.bench.compare import bench, explain, format_table, write_json
from convmixer.bench.settings import BenchConfig
from convmixer.bench.worker import step_of
from convmixer.errors import InputError


def test_records_of_a_small_run(tmp_path: Path) -> None:
    config = BenchConfig(
        models=("convmixer",),
        what=("infer",),
        batch_sizes=(2,),
        image_size=8,
        settings=("fast+bf16", "timm"),
        rounds=2,
        threads=1,
    )
    messages: list[str] = []
    records = bench(config, messages.append)
    assert messages == ["infer convmixer, batch 2"]
    by_setting = {record.setting: record for record in records}
    assert {"plain", "fast+bf16"} <= set(by_setting)
    assert by_setting["plain"].ratio_to_plain == 1.0
    assert by_setting["plain"].peak_bytes > 0
    assert all(r.slowest <= r.images_per_second <= r.fastest for r in records)
    write_json(records, tmp_path / "records.json")
    wanted = "what model kernel_size batch_size engine setting images_per_second ratio_to_plain peak_bytes"
    assert set(wanted.split()) <= set(json.loads((tmp_path / "records.json").read_text())[0])
    assert "fast+bf16" in format_table(records)


@pytest.mark.parametrize("what", ["train", "infer"])
def test_explain_names_the_operations(what: str) -> None:
    rows = explain(BenchConfig(models=("convmixer_bn",), what=(what,), image_size=8))
    operations = {operation for _, _, operation, _, _ in rows}
    assert {"mix", "normalize"} <= operations
    assert ("mix_backward" in operations) == (what == "train")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="'fast'"):
        BenchConfig(settings=("fats",))
    with pytest.raises(InputError):
        BenchConfig(models=("convmixr",))
    with pytest.raises(InputError, match="at least 1"):
        BenchConfig(rounds=0)
    assert step_of.__doc__
