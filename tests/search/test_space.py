"""What can be searched, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmixer.errors import InputError
from convmixer.presets import run_config
from convmixer.search.space import Choice, Range, SearchConfig, searchable, with_values


def test_the_default_is_the_documents_grid() -> None:
    settings = SearchConfig()
    points = settings.grid()
    values = ((0.001, 0.01, 0.1), (0.0001, 0.001, 0.01), (64, 128, 256))
    expected = [dict(zip(("lr", "weight_decay", "batch_size"), row, strict=True)) for row in itertools.product(*values)]
    assert points == expected
    assert SearchConfig(search_space="lr,wd,batch_size").grid() == points
    assert settings.count() == 27
    assert all(settings.check(run_config()).grid())


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=5, unique=True), st.sampled_from(["lr", "weight_decay"]))
def test_numbers_are_taken_as_they_are_written(values: list[float], name: str) -> None:
    (dimension,) = SearchConfig(values=(f"{name}={','.join(map(repr, values))}",)).space()
    assert dimension == Choice(name, tuple(values))
    assert [point[name] for point in SearchConfig(values=(f"{name}={','.join(map(repr, values))}",)).grid()] == values


def test_ranges() -> None:
    settings = SearchConfig(sampler="random", values=("lr=1e-3..0.1:log", "dim=8..32", "wd=0..1"), trials=7)
    assert settings.space() == (
        Range("lr", 0.001, 0.1, log=True),
        Range("dim", 8, 32, log=False),
        Range("weight_decay", 0.0, 1.0, log=False),
    )
    assert (settings.count(), settings.grid()) == (7, [])
    assert SearchConfig(sampler="tpe").count() == 20


def test_every_number_that_decides_the_result_can_be_searched() -> None:
    base, names = run_config(), searchable()
    assert {"lr", "dim", "epochs", "image_size", "label_smoothing"} <= names.keys()
    assert not names.keys() & {"seed", "split_seed", "checkpoint_minutes", "dataset", "protocol", "engine"}
    for name, kind in names.items():
        (dimension,) = SearchConfig(values=(f"{name}={'true' if kind is bool else '3'}",)).space()
        assert isinstance(dimension, Choice)
        assert type(dimension.values[0]) is kind
        assert name in base.identity()


def test_names_can_be_searched() -> None:
    values = ("optimizer=adamw,sgd", "decay_norms=true,false", "schedule=cosine,linear")
    points = SearchConfig(values=values).grid()
    assert len(points) == 8
    assert points[0] == {"optimizer": "adamw", "decay_norms": True, "schedule": "cosine"}
    assert with_values(run_config(), points[-1]).train.schedule == "linear"
    assert len(SearchConfig(values=values).check(run_config()).grid()) == 8


def test_a_model_or_a_recipe_brings_its_own_defaults_and_keeps_what_was_asked_for() -> None:
    base = run_config("convmixer", "baseline", dim=64, epochs=3, dataset="digits")
    expected = run_config("convmixer_rh", "strong-short", dim=64, epochs=3, dataset="digits", lr=0.3)
    assert with_values(base, {"model": "convmixer_rh", "recipe": "strong-short", "lr": 0.3}) == expected
    assert with_values(base, {"model": "convmixer", "lr": 0.3}) == base.replace(lr=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search_space": "lr,depht"}, "did you mean 'depth'"),
        ({"search_space": "device"}, "not a field"),
        ({"search_space": "lr,seed"}, "judged by"),
        ({"search_space": "lr,lr"}, "twice"),
        ({"search_space": "lr,dim"}, "says nothing of dim"),
        ({"search_space": ""}, "search_space: ''"),
        ({"search_space": "lr", "values": ("wd=1",)}, "weight_decay is not searched"),
        ({"values": ("lr",)}, "which values"),
        ({"values": ("lr=",)}, "which values"),
        ({"values": ("lr=fast",)}, "not 'fast'"),
        ({"values": ("lr=nan",)}, "not 'nan'"),
        ({"values": ("lr=0.1,,0.2",)}, "not ''"),
        ({"values": ("decay_norms=yes",)}, "true or false"),
        ({"values": ("optimizer=adamw..sgd",), "sampler": "tpe"}, "has no range"),
        ({"storage": "postgresql://host/db"}, "storage: only"),
        ({"values": ("batch_size=64.5",)}, "whole numbers"),
        ({"values": ("lr=0.1,0.1",)}, "a value twice"),
        ({"values": ("lr=0.1", "lr=0.2")}, "twice"),
        ({"values": ("lr=0.1..0.2",)}, "needs a list"),
        ({"values": ("lr=0.2..0.1",), "sampler": "tpe"}, "is empty"),
        ({"values": ("lr=0..0.1:log",), "sampler": "tpe"}, "above 0"),
        ({"values": ("lr=0.01..0.1:exp",), "sampler": "tpe"}, "only :log"),
        ({"sampler": "tpee"}, "did you mean 'tpe'"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"trials": 5}, "every combination"),
        ({"trials": 0, "sampler": "tpe"}, "trials: 0"),
        ({"seeds": -1}, "seeds: -1"),
        ({"trial_seeds": 0}, "trial_seeds: 0"),
        ({"workers": 0}, "workers: 0"),
        ({"workers": "2"}, "workers: expected int, got '2'"),
        ({"values": "lr=0.1"}, "values: expected several"),
    ],
)
def test_bad_settings_get_a_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"values": ("kernel_size=3,4",)}, {}, "kernel_size: 4 is even"),
        ({"values": ("dropout=0..2",), "sampler": "tpe"}, {}, "dropout: 2.0 is out of range"),
        ({"values": ("dim=9,12",)}, {"model": "convmixer_bn"}, "does not divide dim 9"),
        ({"values": ("optimizer=adamw,sdg",)}, {}, "did you mean 'sgd'"),
        ({"values": ("model=convmixer,convmixr",)}, {}, "did you mean"),
        ({}, {"protocol": "original"}, "held-out"),
        ({}, {"val_fraction": 0.0}, "held-out"),
    ],
)
def test_what_no_run_can_have_is_refused_before_the_first(
    settings: dict[str, object], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SearchConfig(**settings).check(run_config(**changes))
