"""The run's configuration: one source for Python, flags and JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmixer.cli.defaults import read_config
from convmixer.config import RunConfig, field_owners, sections
from convmixer.errors import InputError
from convmixer.presets import MODELS, RECIPES, run_config


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_survives_json(model: str, recipe: str) -> None:
    config = run_config(model, recipe)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(
    lr=st.floats(0, 10),
    epochs=st.integers(1, 1000),
    dim=st.integers(1, 4096),
    flip=st.sampled_from([None, True, False]),
    head=st.sampled_from(["linear", "rh", "lc"]),
)
def test_any_valid_configuration_survives_json(**fields: object) -> None:
    config = run_config(**fields)
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.identity_hash() == config.identity_hash()


def test_recipes_are_the_documented_ones() -> None:
    baseline, reference = run_config(recipe="baseline"), run_config(recipe="reference")
    assert (baseline.architecture.kernel_size, baseline.train.weight_decay) == (9, 1e-2)
    assert (reference.train.lr, reference.train.weight_decay, reference.train.clip_norm) == (0.05, 0.005, 1.0)
    assert (reference.augment.randaugment, reference.augment.randaugment_magnitude) == (2, 12)
    assert (reference.train.schedule, reference.augment.color_jitter, reference.augment.erasing) == ("triangular", 0, 0)


def test_field_names_are_unique_and_described() -> None:
    names = [f.name for s in sections() for f in dataclasses.fields(getattr(RunConfig(), s))]
    names += [f.name for f in dataclasses.fields(RunConfig) if f.name not in sections()]
    assert len(names) == len(set(names)) == len(field_owners())


def test_identity_ignores_what_does_not_change_the_result() -> None:
    config = run_config()
    assert (
        config.replace(device="cpu", data_dir="/elsewhere", checkpoint_minutes=1).identity_hash()
        == config.identity_hash()
    )
    for changes in ({"seed": 1}, {"lr": 0.02}, {"dim": 255}, {"recipe": "reference"}, {"protocol": "original"}):
        assert config.replace(**changes).identity_hash() != config.identity_hash(), changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 8}, "choose 7 or 9"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"epochs": 0}, "epochs: 0"),
        ({"batch_size": 1}, "batch_size: 1"),
        ({"epochs": 2.5}, "epochs: expected int"),
        ({"epochs": True}, "epochs: expected int"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": "high"}, "lr: expected float"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"dataset": "cifar"}, "did you mean 'cifar10'"),
        ({"dataset": "folder:"}, "folder:"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"randaugment_magnitude": 31}, "magnitude"),
        ({"seed": -1}, "seed"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"accumulate": 0}, "accumulate"),
        ({"eval_every": 0}, "eval_every"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"flip": "yes"}, "flip"),
        ({"flip_mode": "alternate"}, "did you mean 'alternating'"),
        ({"crop_fill": "mirror"}, "crop_fill"),
        ({"cutout": -1}, "cutout"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": float("nan")}, "cutmix"),
        ({"mix_probability": 1.1}, "mix_probability"),
        ({"branch": "bottleneck", "dim": 15}, "1, 3, 5, 15"),
    ],
)
def test_impossible_values_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_config(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epoch": 3}}, "config.train: unknown key 'epoch'; did you mean 'epochs'"),
        ({"trian": {}}, "did you mean 'train'"),
        ({"train": 3}, "config.train: expected an object"),
        ([], "expected an object"),
        ({"architecture": {"kernel_size": 4}}, "config.architecture: kernel_size: 4 is even"),
    ],
)
def test_wrong_json_is_refused_with_its_place(values: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("model", "recipe", "near"), [("convmixer_rx", "baseline", "convmixer_rh"), ("convmixer", "refrence", "reference")]
)
def test_unknown_presets_get_the_nearest_name(model: str, recipe: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        run_config(model, recipe)


@pytest.mark.parametrize("value", ["/etc/x", "../../x", "", "a\0b", "\ud800", "x" * 200, ["a"], {"a": 1}, 3])
@pytest.mark.parametrize("name", ["model", "recipe"])
def test_names_that_become_part_of_a_path_are_names(name: str, value: Any) -> None:
    with pytest.raises(InputError):
        RunConfig.from_dict({**RunConfig().to_dict(), name: value})
    with pytest.raises(InputError):
        run_config(**{name: value or "/"})  # "" is the default


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "folder:\0"])
def test_text_that_no_file_could_hold_is_refused(value: str) -> None:
    values = RunConfig().to_dict()
    with pytest.raises(InputError):
        RunConfig.from_dict({**values, "data": {**values["data"], "data_dir": value, "dataset": value}})


@pytest.mark.parametrize("content", ["[" * 100_000, "1: 2", "? [a]\n: b", "- 3", '"\\ud800": 1'])
def test_hostile_yaml_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError):
        read_config(tmp_path / "c.yaml")
