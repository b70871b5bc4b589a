"""When a fused model runs as one native call, and when it must not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convmixer.kernels import plan
from convmixer.kernels.plan import Plan
from convmixer.models import ConvMixer

pytestmark = pytest.mark.skipif(plan.library() is None, reason="no C++ compiler")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each native call had."""
    made: list[int] = []
    run = Plan.run

    def counted(self: Plan, images: Any, threads: int | None = None) -> Any:
        made.append(len(images))
        return run(self, images, threads)

    monkeypatch.setattr(Plan, "run", counted)
    return made


def fused(**sizes: Any) -> ConvMixer:
    torch.manual_seed(0)
    model = ConvMixer(**{"dim": 16, "depth": 2, "kernel_size": 3, "engine": "fast", **sizes})
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 8, 8))
    return model.eval().fuse()


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def plain(model: ConvMixer, x: torch.Tensor = IMAGES) -> torch.Tensor:
    other = copy.deepcopy(model)
    other.set_engine("plain")
    logits: torch.Tensor = other(x)
    return logits


@torch.no_grad()
def test_a_fused_model_is_one_native_call(calls: list[int]) -> None:
    model = fused()
    torch.testing.assert_close(model(IMAGES), plain(model), rtol=1e-5, atol=1e-5)
    assert calls == [3]
    model(IMAGES[:1])
    copied: ConvMixer = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(IMAGES), copy.deepcopy(model)(IMAGES))
    assert calls == [3, 1, 3, 3]


def other_weights(model: ConvMixer) -> None:
    model.get_submodule("blocks.0.1").get_parameter("weight").mul_(3)


def other_statistics(model: ConvMixer) -> None:
    model.get_submodule("stem.2").get_buffer("running_mean").add_(1)


def replaced_activation(model: ConvMixer) -> None:
    model.blocks[1][2] = nn.Tanh()  # type: ignore[operator]


def replaced_head(model: ConvMixer) -> None:
    model.head = nn.Sequential(nn.Linear(16, 10), nn.Tanh())


CHANGES: dict[str, tuple[Callable[[ConvMixer], object], bool]] = {
    "a weight": (other_weights, True),
    "a statistic": (other_statistics, True),
    "a parameter's data": (lambda m: setattr(m.head.weight, "data", torch.ones(10, 16)), True),
    "another parameter": (lambda m: setattr(m.head, "weight", nn.Parameter(torch.ones(10, 16))), True),
    "loaded weights": (lambda m: m.load_state_dict(fused(dim=16, depth=2).state_dict()), True),
    "fewer blocks": (lambda m: m.blocks.pop(1), False),
    "an activation": (replaced_activation, False),
    "a head": (replaced_head, False),
    "classes": (lambda m: m.reset_classifier(4), True),
    "no classes": (lambda m: m.reset_classifier(0), True),
    "pooling": (lambda m: m.reset_classifier(10, "max"), False),
    "a hook": (lambda m: m.blocks[0].register_forward_hook(lambda *_: None), False),
    "a block in training": (lambda m: m.blocks[0].train(), False),
}


@torch.no_grad()
@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_noticed(what: str, calls: list[int]) -> None:
    change, planned = CHANGES[what]
    model = fused()
    model(IMAGES)
    change(model)
    found = model(IMAGES)
    if what != "a block in training":
        torch.testing.assert_close(found, plain(model), rtol=1e-5, atol=1e-5)
    assert calls == [3] * (1 + planned)


@pytest.mark.parametrize(
    "how",
    ["gradients", "training", "float64", "bfloat16", "engine", "unfused", "too small", "four channels", "counted"],
)
def test_other_passes_run_the_modules(how: str, calls: list[int]) -> None:
    model, x = fused(), IMAGES
    if how == "gradients":
        assert model(x).requires_grad
    with torch.no_grad():
        if how == "training":
            model.train()(x)
        elif how == "float64":
            model.double()(x.double())
        elif how == "bfloat16":
            with torch.autocast("cpu", torch.bfloat16):
                model(x)
        elif how == "engine":
            model.set_engine("plain")
            model(x)
        elif how == "unfused":
            model.unfuse()(x)
        elif how == "too small":
            with pytest.raises(RuntimeError):
                model(x[:, :, :1])
        elif how == "four channels":
            with pytest.raises(RuntimeError):
                model(torch.randn(1, 4, 8, 8))
        elif how == "counted":
            from torch.utils.flop_counter import FlopCounterMode

            with FlopCounterMode(display=False) as counter:
                model(x)
            assert counter.get_total_flops() > 0
    assert calls == []


@torch.no_grad()
def test_any_layout_of_images_and_none() -> None:
    model = fused()
    expected = model(IMAGES)
    assert torch.equal(model(IMAGES.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(model(IMAGES.flip(0)).flip(0), expected)
    assert torch.equal(model(IMAGES.clone().requires_grad_(True)), expected)
    assert model(IMAGES[:0]).shape == (0, 10)
