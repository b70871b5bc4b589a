"""The benchmark at tiny sizes: competitors in processes of their own, records, errors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from convmixer.bench import compare, roofline
from convmixer.bench.compare import bench, explain, format_table, roofline_panels, to_json
from convmixer.bench.competitors import interleave
from convmixer.bench.settings import REFERENCE, REFERENCE_FP16, SETTINGS, BenchConfig
from convmixer.bench.step import Job, build, step_of
from convmixer.bench.sweep import AXES, Axis, format_sweep, sweep
from convmixer.config import ModelConfig
from convmixer.errors import InputError
from convmixer.kernels.build import instruction_set
from convmixer.runtime import cuda_graph

TINY = ModelConfig(dim=8, depth=2, kernel_size=3, patch_size=2)
CUDA = [name for name, setting in SETTINGS.items() if "cuda" in setting.devices]


def job(what: str = "train", setting: str = "plain", device: str = "cpu", image_size: int = 8) -> Job:
    return Job(what, "tiny", TINY, 10, 4, image_size, setting, device, 1)


@pytest.mark.slow
def test_records_of_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setenv("CONVMIXER_NATIVE", "0")
    config = BenchConfig(
        models=("convmixer",),
        what=("infer",),
        batch_sizes=(2,),
        image_size=8,
        settings=("fast+bf16", "timm"),
        device="cpu",
        rounds=2,
        threads=1,
    )
    messages: list[str] = []
    records = bench(config, messages.append)
    assert messages[0] == "infer convmixer, batch 2"
    by_setting = {record.setting: record for record in records}
    assert {"plain", "fast+bf16"} <= set(by_setting)
    assert by_setting["plain"].peak_bytes > 0
    assert all(r.slowest <= r.images_per_second <= r.fastest for r in records)
    assert all(r.gemm_flops_per_second > r.flops_per_second > 0 and r.bytes_per_second > 0 for r in records)
    assert {r.limited_by for r in records} == {"ONEDNN_MAX_CPU_ISA=AVX2 CONVMIXER_NATIVE=0"}
    assert "CONVMIXER_NATIVE=0" in format_table(records)
    for record in records:
        assert record.latency_p50 is not None
        assert record.latency_p99 is not None
        assert 0 < record.latency_p50 <= record.latency_p99
    wanted = "what model kernel_size batch_size engine setting images_per_second ratio_to_plain peak_bytes"
    assert set(wanted.split()) <= set(json.loads(to_json(records))[0])
    assert "fast+bf16" in format_table(records)
    (panel,) = roofline_panels(records)
    assert {(point.name, point.ours) for point in panel.points} == {("plain", False), ("fast+bf16", True)}
    assert panel.title == "infer convmixer, batch 2"
    assert set(panel.gemm_flops_per_second) == {"float32", "bfloat16"}
    with_fp16 = [dataclasses.replace(record, ratio_to_plain_fp16=0.5) for record in records]
    assert "÷ plain+fp16" in format_table(with_fp16)


@pytest.mark.slow
def test_speeds_and_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds in which the machine slows down: the ratio within a round is what counts."""
    seconds = {"plain": [2.0, 4.0, 6.0], "fast": [1.0, 1.0, 2.0], "timm": []}
    monkeypatch.setattr(
        compare,
        "interleave",
        lambda groups, *_: [[[([s / 2, 3 * s / 2], 7) for s in seconds[j.setting]] for j in group] for group in groups],
    )
    settings = {"settings": ("fast", "timm"), "device": "cpu", "rounds": 3, "threads": 1}
    config = BenchConfig(models=("convmixer",), what=("train",), batch_sizes=(8,), image_size=8, **settings)
    plain, fast = bench(config)
    assert (plain.setting, plain.images_per_second, plain.slowest, plain.fastest) == ("plain", 2.0, 8 / 6, 4.0)
    assert (fast.setting, fast.images_per_second, fast.slowest, fast.fastest) == ("fast", 8.0, 4.0, 8.0)
    assert (plain.ratio_to_plain, fast.ratio_to_plain) == (1.0, 3.0)  # of 2, 4 and 3; not 4 / 1
    assert fast.ratio_to_plain_fp16 is None
    assert fast.peak_bytes == 7
    assert fast.latency_p50 is None  # of a training step


@pytest.mark.slow
def test_latency_is_that_of_single_steps_of_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[0.001 * i for i in range(1, 101)], [0.001 * i for i in range(101, 201)]]
    monkeypatch.setattr(
        compare, "interleave", lambda groups, *_: [[[(r, 7) for r in rounds] for _ in jobs] for jobs in groups]
    )
    config = BenchConfig(
        models=("convmixer",), what=("infer",), batch_sizes=(1,), image_size=8, settings=("fast",), device="cpu"
    )
    records = bench(config)
    for record in records:
        assert record.latency_p50 == pytest.approx(0.1005)
        assert record.latency_p99 == pytest.approx(0.19801)
    assert "100.50 ms  198.01 ms" in format_table(records)
    assert records[0].machine.instructions.split()[0] == instruction_set()


@pytest.mark.slow
def test_what_does_not_work_is_left_out_and_named() -> None:
    messages: list[str] = []
    (results,) = interleave([[job(), job(image_size=1)]], 2, 60.0, messages.append)
    assert [len(rounds) for rounds in results] == [2, 0]
    assert len(messages) == 2
    assert messages[1].startswith("left out plain: RuntimeError")


def test_a_competitor_has_limited_time() -> None:
    messages: list[str] = []
    assert interleave([[job()]], 1, 0.01, messages.append) == [[[]]]
    assert "more than 0.01 s" in messages[-1]


@pytest.mark.slow
def test_without_the_reference_there_is_no_record() -> None:
    with pytest.raises(InputError, match="smaller sizes"):
        bench(BenchConfig(models=("convmixer",), what=("infer",), image_size=1, settings=("fast",), device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "infer"])
def test_explain_names_the_operations(what: str) -> None:
    rows = explain(BenchConfig(models=("convmixer_bn",), what=(what,), image_size=8, device="cpu"))
    operations = {operation for _, _, _, operation, _, _ in rows}
    assert {"act_norm_depthwise", "act_norm"} <= operations
    assert ("act_norm_depthwise_backward" in operations) == (what == "train")
    assert {setting for _, _, setting, *_ in rows} == {"fast", "fast+bf16"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="'fast'"):
        BenchConfig(settings=("fats",))
    with pytest.raises(InputError):
        BenchConfig(models=("convmixr",))
    with pytest.raises(InputError, match="at least 1"):
        BenchConfig(rounds=0)
    with pytest.raises(InputError, match="above 0"):
        BenchConfig(time_limit=0)


def test_each_device_has_its_settings() -> None:
    assert next(iter(BenchConfig().chosen("cuda"))) == REFERENCE
    assert REFERENCE_FP16 in BenchConfig().chosen("cuda")
    assert list(BenchConfig(settings=("fast",)).chosen("cpu")) == [REFERENCE, "fast"]
    with pytest.raises(InputError, match="not measured on cpu"):
        BenchConfig(settings=("fast+graph+bf16",)).chosen("cpu")


@pytest.mark.parametrize("setting", ["plain", "plain+fp16", "channels_last+bf16", "fast+bf16", "auto"])
def test_a_step_trains(setting: str) -> None:
    """Whatever the precision, weights change and stay finite."""
    wanted = job(setting=setting)
    model = build(wanted)
    step = step_of(wanted, model)
    before = next(model.parameters()).detach().clone()
    step()
    assert not torch.equal(before, next(model.parameters()))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_operations_and_bytes_of_a_small_network() -> None:
    """Counted by hand: 4 images of 8 × 8, 16 positions, 8 channels."""
    macs = 16 * 8 * 12 + 2 * 16 * (8 * 9 + 8 * 8) + 8 * 10
    assert roofline.flops(job("infer")) == 2 * 4 * macs
    assert roofline.flops(job("train")) == 6 * 4 * macs
    stem, inner, head = (3 * 64, 16 * 8), (16 * 8, 16 * 8), (8, 10)
    layers = [stem, *[inner] * 4, head]
    parameters = 8 * 12 + 8 + 16 + 2 * (8 * 9 + 8 + 16 + 8 * 8 + 8 + 16) + 8 * 10 + 10
    forward = sum(map(sum, layers))
    assert roofline.least_bytes(job("infer", "bf16")) == 2 * 4 * forward + 4 * parameters
    backward = sum(2 * read + written for read, written in layers) - stem[0]
    assert roofline.least_bytes(job("train")) == 4 * 4 * (forward + backward) + 40 * parameters


@pytest.mark.gpu
def test_a_captured_step_trains_as_the_step_does() -> None:
    wanted = job(setting="plain+graph+bf16", device="cuda")
    start = parameters_to_vector(build(wanted).parameters()).detach()
    ends = []
    for graph in (False, True):
        model = build(wanted)
        step = step_of(wanted, model)
        run = cuda_graph.captured(step, warm_up=3) if graph else step
        for _ in range(2 if graph else 5):  # capturing has run it three times before
            run()
        ends.append(parameters_to_vector(model.parameters()).detach())
    assert (ends[0] - ends[1]).abs().mean() < 0.05 * (ends[0] - start).abs().mean()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "infer"])
def test_every_setting_runs_on_a_gpu(what: str) -> None:
    messages: list[str] = []
    (results,) = interleave([[job(what, name, "cuda") for name in CUDA]], 2, 240.0, messages.append)
    missing = {name for name, rounds in zip(CUDA, results, strict=True) if not rounds}
    assert all("timm" in name for name in missing), messages


@pytest.mark.slow
def test_a_sweep_compares_the_engines_at_each_size() -> None:
    axes = {"kernel_size": Axis((3, 5), batch_size=2, image_size=8, architecture=TINY)}
    messages: list[str] = []
    config = BenchConfig(what=("train", "infer"), rounds=1, threads=1, device="cpu")
    records = sweep(config, ["kernel_size"], axes, messages.append)
    assert messages == ["kernel_size: 3, 5"]
    assert [(r.kernel_size, r.what, r.precision) for r in records[:3]] == [
        (3, "train", "float32"),
        (3, "train", "bfloat16"),
        (3, "infer", "float32"),
    ]
    assert len(records) == 8
    assert {r.auto_runs_as for r in records} == {"plain"}  # too small to matter
    assert all(r.fast_ratio > 0 and r.fast_images_per_second > 0 for r in records)
    table = format_sweep([dataclasses.replace(record, auto_ratio=1.0) for record in records])
    assert "at no size" in table
    assert "train float32 kernel_size 3 (0.50, is plain)" in format_sweep(
        [dataclasses.replace(records[0], auto_ratio=0.5)]
    )


@pytest.mark.parametrize("name", AXES)
def test_axes_change_what_they_are_called_after(name: str) -> None:
    axis = AXES[name]
    jobs = [axis.job(name, value) for value in axis.values]
    sizes = [
        (j.batch_size, j.architecture.depth, j.architecture.dim, j.image_size, j.architecture.kernel_size) for j in jobs
    ]
    changing = [column for column in zip(*sizes, strict=True) if len(set(column)) > 1]
    assert changing == [axis.values]
