"""Weights in both public layouts, and files that must be refused."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convmixer.errors import InputError
from convmixer.models import create_model, load_weights
from tests.helpers.networks import paper_network

SMALL = {"dim": 16, "depth": 2, "kernel_size": 5}


def saved(state: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "module."])
def test_papers_layout_gives_the_papers_outputs(tmp_path: Path, suffix: str, wrapping: str) -> None:
    plain = paper_network(16, 2, 5, 2, 10).eval()
    state: dict[str, object] = dict(plain.state_dict())
    if wrapping == "state_dict" and suffix == ".pt":
        state = {"state_dict": state, "epoch": 3}
    elif wrapping == "module." and suffix == ".pt":
        state = {f"module.{key}": value for key, value in state.items()}
    model = create_model("convmixer", weights=saved(state, tmp_path / f"paper{suffix}"), **SMALL).eval()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(images), plain(images))


def test_timms_names_are_ours(tmp_path: Path) -> None:
    names = set(create_model("convmixer_1536_20", dim=8, depth=2).state_dict())
    for expected in ("stem.0.weight", "stem.2.running_var", "blocks.1.0.fn.0.weight", "blocks.1.3.bias", "head.weight"):
        assert expected in names
    source = create_model("convmixer", **SMALL)
    target = create_model("convmixer", weights=saved(source.state_dict(), tmp_path / "timm.safetensors"), **SMALL)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_a_mismatch_names_the_keys_and_changes_nothing(tmp_path: Path) -> None:
    state = create_model("convmixer", **SMALL).state_dict()
    del state["stem.0.bias"]
    state["extra"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(3, 16)
    model = create_model("convmixer", **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(model, saved(state, tmp_path / "w.pt"))
    for part in ("1 missing (stem.0.bias)", "1 unexpected (extra)", "head.weight is [3, 16], not [10, 16]"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _Payload:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sentinel),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, how: str) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pt"
    payload = {"stem.0.weight": _Payload(sentinel)}
    if how == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(InputError, match=r"evil\.pt.*without running code"):
        create_model("convmixer", weights=path, **SMALL)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pt", b""),
        ("a.safetensors", b""),
        ("a.pt", b"not weights"),
        ("a.safetensors", b"\xff" * 64),
        ("a.pt", b"PK\x03\x04broken"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        create_model("convmixer", weights=tmp_path / name, **SMALL)


def test_other_contents_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        create_model("convmixer", weights=tmp_path / "absent.pt", **SMALL)
    with pytest.raises(InputError, match="no state_dict"):
        create_model("convmixer", weights=saved([1, 2], tmp_path / "list.pt"), **SMALL)


State = dict[str, torch.Tensor]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        *map(prefixed, ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "net.", "my_attribute.")),
        lambda state: {key.replace("blocks.", "blocks._orig_mod."): value for key, value in state.items()},
        lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3, "pytorch-lightning_version": "2.0"},
        lambda state: {
            "arch": "x",
            "state_dict": state,
            "optimizer": {
                "state": {0: {"exp_avg": torch.ones(2), "step": torch.ones(())}},
                "param_groups": [{"lr": 1}],
            },
            "args": argparse.Namespace(lr=0.1, path=Path("x"), seed=np.int64(3)),
            "metric": np.float64(91.2),
        },
        lambda state: {"epoch": 3, "best": np.float32(0.5), "state_dict": state},
        lambda state: {"state_dict": state, "state_dict_ema": {key: value + 1 for key, value in state.items()}},
        lambda state: {"net": state, "acc": 91.2, "optimizer": {"exp_avg": torch.ones(2)}},
        lambda state: {"trainer": {"modules": {"net": state}}, "best": torch.ones(())},
        lambda state: collections.OrderedDict((key, value.half()) for key, value in state.items()),
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    ],
)
def test_the_layouts_that_people_have(tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    source = create_model("convmixer", **SMALL).half().float()
    path = saved(wrap(source.state_dict()), tmp_path / "weights.pt")
    target = create_model("convmixer", weights=path, **SMALL)
    for (name, a), b in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (lambda state: {"a": state, "b": state}, r"holds several sets of weights \(a, b\); save one"),
        (lambda state: {"optimizer": state}, "holds no state_dict"),
        (
            lambda state: state | {"head.bias": state["head.bias"] * torch.nan},
            "head.bias has values that are not finite",
        ),
        (lambda state: state | {"head.bias": state["head.bias"].to_sparse()}, "head.bias is not a dense tensor"),
        (
            lambda state: state | {"head.bias": state["head.bias"].to(torch.complex64)},
            "head.bias is not a dense tensor",
        ),
        (
            lambda state: create_model("convmixer", **SMALL),
            r"without running code in it \(it holds objects of convmixer",
        ),
    ],
)
def test_what_is_no_set_of_weights_is_refused(tmp_path: Path, content: Callable[[State], Any], complaint: str) -> None:
    path = saved(content(create_model("convmixer", **SMALL).state_dict()), tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"w\.pt: .*{complaint}"):
        create_model("convmixer", weights=path, **SMALL)


def test_any_damage_is_one_sentence(tmp_path: Path) -> None:
    """Bytes changed and cut anywhere: refused, or the change was in what no weight depends on."""
    state = create_model("convmixer", **SMALL).state_dict()
    whole = saved(state, tmp_path / "w.pt").read_bytes()
    random, complaints = np.random.default_rng(0), list[str]()
    for trial in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 8):
            damaged[place] = random.integers(256)
        (tmp_path / "w.pt").write_bytes(damaged[: random.integers(len(whole))] if trial % 3 == 0 else damaged)
        try:
            create_model("convmixer", weights=tmp_path / "w.pt", **SMALL)
        except InputError as error:
            complaints.append(str(error))
    assert len(complaints) > 50
    assert all("w.pt: " in text and text[-1] in ".?" for text in complaints)
    assert all("\n" not in text for text in complaints)
